"""Boundary and HopSkipJump, which see the model's decisions only and run on Foolbox."""

import numpy as np
import pytest
import tensorflow as tf

from tfode_adv import attacks
from tfode_adv.errors import UsageError

pytest.importorskip("foolbox")

CASES = [("boundary", "l2", {"steps": 60}), ("hopskipjump", "linf", {"steps": 2}), ("hopskipjump", "l2", {"steps": 2})]


@pytest.mark.parametrize(("name", "norm", "hyperparameters"), CASES)
def test_they_come_near_and_do_not_depend_on_the_batch(linear, name, norm, hyperparameters):
    optimum = linear.distance(norm)
    np.random.seed(7)
    expected = np.random.uniform()
    np.random.seed(7)
    result = attacks.get(name, norm=norm, seed=1, **hyperparameters)(linear, linear.x, linear.y)
    assert np.random.uniform() == expected
    assert result.success.all()
    assert (result.distance >= 0.999 * optimum).all()
    assert (result.distance < 8 * optimum).all()
    assert (result.gradients == 0).all()
    single = attacks.get(name, norm=norm, seed=1, batch_size=1, **hyperparameters)(linear, linear.x, linear.y)
    np.testing.assert_array_equal(result.x_adv, single.x_adv)
    np.testing.assert_array_equal(result.queries, single.queries)
    assert not np.array_equal(result.x_adv[0], result.x_adv[1])


@pytest.mark.parametrize(("name", "norm", "hyperparameters"), CASES)
def test_with_an_eps_they_are_judged_inside_the_ball(linear, name, norm, hyperparameters):
    for factor, expected in ((0.9, False), (20, True)):
        eps = factor * linear.distance(norm)
        result = attacks.get(name, norm=norm, eps=eps, **hyperparameters)(linear, linear.x[:2], linear.y[:2])
        assert (result.success == expected).all()
        assert (result.distance <= eps * (1 + 1e-5)).all()
        assert result.x_adv.min() >= 0 and result.x_adv.max() <= 1


@pytest.mark.filterwarnings("ignore:.*failed to draw sufficient random:UserWarning")
@pytest.mark.parametrize("name", ["boundary", "hopskipjump"])
def test_without_a_starting_point_the_image_is_not_turned(name):
    def stubborn(x):
        return tf.stack([x[:, 0, 0, 0] + 2.0, x[:, 0, 0, 0]], -1)

    x = np.full((1, 3, 3, 1), 0.5, np.float32)
    result = attacks.get(name, norm="l2", steps=1)(stubborn, x, np.zeros(1, np.int64))
    assert not result.success.any()
    np.testing.assert_array_equal(result.x_adv, x)
    assert result.queries[0] > 1000


@pytest.mark.parametrize("error", [UsageError("steps is 3"), ValueError("shapes differ")])
def test_another_error_is_not_taken_for_a_missing_start(linear, monkeypatch, error):
    class Broken:
        def run(self, model, x, y):
            raise error

    monkeypatch.setattr(attacks.Boundary, "build", lambda self, library: Broken())
    with pytest.raises(type(error), match=str(error)):
        attacks.get("boundary", norm="l2", steps=1)(linear, linear.x[:1], linear.y[:1])
