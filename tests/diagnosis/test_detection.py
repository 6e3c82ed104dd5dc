import numpy as np
import pytest

from tfode_adv.diagnosis import detection
from tfode_adv.diagnosis.detection import Detector
from tfode_adv.errors import UsageError

BUDGET = {"norm": "linf", "eps": 0.2, "step_size": 0.05, "steps": 4}


@pytest.fixture(scope="module")
def detector():
    return Detector("states", tol=1.0, references=(1e-4,))


def test_score_is_the_distance_of_the_states(detector, ode_probe, ode_images):
    x, _ = ode_images
    block = ode_probe.blocks[0]
    start = ode_probe.original.layers[-3](ode_probe.original.layers[-4](x))
    before, states = block.tol, []
    for tol in (1.0, 1e-4):
        block.tol = tol
        states.append(block(start).numpy())
    block.tol = before
    expected = np.linalg.norm(states[0] - states[1], axis=1) / np.linalg.norm(states[0], axis=1)
    np.testing.assert_allclose(detector.scores(ode_probe, x), expected, rtol=1e-2, atol=1e-5)


def test_calibrated_on_clean_images(detector, ode_probe, ode_images):
    x, _ = ode_images
    calibrated = detector.calibrated(ode_probe, x, false_positive_rate=0.25)
    found = detection.detect(calibrated, ode_probe, x, x[:0])
    assert found.false_positive_rate <= 0.25
    assert found.auc is None and found.true_positive_rate is None
    same = detection.detect(calibrated, ode_probe, x, x)
    assert same.auc == pytest.approx(0.5) and same.true_positive_rate == same.false_positive_rate


def test_an_escape_is_misclassified_and_not_flagged(detector, ode_probe, ode_images):
    x, y = ode_images
    calibrated = detector.calibrated(ode_probe, x, false_positive_rate=0.25)
    for path in detection.evade(calibrated, ode_probe, x, y, **BUDGET).values():
        escaped = path.x_best[path.found]
        assert path.found.any()
        assert (ode_probe.predict(escaped, tol=1.0) != y[path.found]).all()
        assert (calibrated.scores(ode_probe, escaped) <= calibrated.threshold + 1e-6).all()
        assert np.abs(path.x_best - x).max() <= 0.2 + 1e-6


def test_outputs_score_is_between_zero_and_one(ode_probe, ode_images):
    x, _ = ode_images
    scores = Detector("outputs", tol=1.0, references=(1e-4,)).scores(ode_probe, x)
    assert (scores >= 0).all() and (scores <= 1).all() and scores.max() > 0


def test_unknown_scores_and_missing_references_are_refused():
    with pytest.raises(UsageError, match="noise.*outputs, states"):
        Detector("noise", 1.0, (0.1,))
    with pytest.raises(UsageError, match="at least one tolerance"):
        Detector("states", 1.0, ())
