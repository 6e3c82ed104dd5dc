import numpy as np
import pytest
import tensorflow as tf

from tfode_adv.diagnosis import recorded_ascent
from tfode_adv.diagnosis.probe import Probe

SLOPE = np.linspace(-1, 1, 12).reshape(2, 6, 1).astype(np.float32)
BUDGET = {"step_size": 0.02, "steps": 10}


@pytest.fixture(scope="module")
def linear():
    """Two classes apart by a plane: the worst perturbation is known in closed form."""

    def model(x):
        score = tf.reduce_sum(x * SLOPE, axis=(1, 2, 3))
        return tf.stack([score, -score], axis=-1)

    return Probe(model, batch_size=3)


@pytest.fixture
def points():
    return np.full((5, 2, 6, 1), 0.5, np.float32) + 0.01 * np.arange(5, dtype=np.float32).reshape(5, 1, 1, 1)


@pytest.mark.parametrize("norm, scale", [("linf", 1.0), ("l2", 1.0), ("l2rms", 12**0.5)])
def test_it_climbs_to_the_worst_perturbation(linear, points, norm, scale):
    y = np.zeros(5, np.int64)
    path = recorded_ascent.ascend(linear, points, y, norm=norm, eps=0.1, **BUDGET)
    worst = np.sign(SLOPE) if norm == "linf" else scale * SLOPE / np.linalg.norm(SLOPE)
    np.testing.assert_allclose(path.x_last - points, np.tile(-0.1 * worst, (5, 1, 1, 1)), atol=1e-5)
    assert (np.diff(path.losses, axis=0) > -1e-6).all()
    assert path.losses.shape == path.turned.shape == (11, 5)


def test_it_records_the_start_and_every_success(linear, points):
    y = np.zeros(5, np.int64)
    path = recorded_ascent.ascend(linear, points, y, norm="linf", eps=0.1, **BUDGET)
    logits = linear.logits(points)
    np.testing.assert_array_equal(path.turned[0], logits.argmax(-1) != 0)
    np.testing.assert_array_equal(path.found, path.turned.any(axis=0))
    assert (linear.predict(path.x_best)[path.found] != 0).all()


def test_gradient_and_judgement_may_come_from_different_solves(ode_probe, ode_images):
    x, y = ode_images
    budget = {"norm": "linf", "eps": 0.1, "step_size": 0.05, "steps": 2}
    fixed = {"solver": "rk4", "num_steps": 4}
    path = recorded_ascent.ascend(ode_probe, x, y, **budget, settings=fixed, judged={"tol": 1.0})
    turned = ode_probe.predict(path.x_last, tol=1.0) != y
    np.testing.assert_array_equal(path.turned[-1], turned)
