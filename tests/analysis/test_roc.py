import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfode_adv.analysis.roc import operating_point, roc

scores = hnp.arrays(np.float64, st.integers(1, 30), elements=st.integers(0, 6).map(float))


@given(clean=scores, adversarial=scores)
def test_area_is_the_probability_of_ranking_right(clean, adversarial):
    pairs = np.sign(adversarial[:, None] - clean[None, :])
    assert roc(clean, adversarial).auc == pytest.approx(((pairs + 1) / 2).mean())


@given(clean=scores, adversarial=scores)
def test_curve_rises_from_corner_to_corner(clean, adversarial):
    curve = roc(clean, adversarial)
    for rates in (curve.false_positive_rate, curve.true_positive_rate):
        assert rates[0] == 0 and rates[-1] == 1 and (np.diff(rates) >= 0).all()


def test_nothing_to_rank_has_no_area():
    assert np.isnan(roc(np.zeros(0), np.ones(3)).auc)


@given(clean=scores, rate=st.floats(0, 0.9))
def test_operating_point_keeps_the_false_positive_rate(clean, rate):
    threshold = operating_point(clean, rate)
    assert (clean > threshold).mean() <= rate


def test_operating_point_is_the_smallest_that_does():
    assert operating_point(np.arange(100.0), 0.05) == 94
