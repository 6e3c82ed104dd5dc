"""A mean of gradients sees past a ripple that a single one follows."""

import numpy as np
import pytest
import tensorflow as tf

from tfode_adv import attacks
from tfode_adv.errors import UsageError

SLOPE = np.linspace(-1, 1, 16).reshape(4, 4, 1).astype(np.float32)


def rippled(x):
    score = tf.reduce_sum((x + 0.02 * tf.sin(300.0 * x) - 0.5) * SLOPE, (1, 2, 3))
    return tf.stack([score, -score], -1)


@pytest.mark.parametrize("norm, radius", [("linf", 0.05), ("l2", 0.4)])
def test_the_mean_points_where_the_smoothed_loss_rises(norm, radius):
    x = np.random.default_rng(0).uniform(0.3, 0.7, (4, 4, 4, 1)).astype(np.float32)
    source = attacks.Smoothed(radius, norm, n=128)
    value, logits, gradient = source.differentiate(rippled, lambda z: z[:, 0], tf.constant(x))
    np.testing.assert_allclose(value, logits[:, 0])
    np.testing.assert_allclose(logits, rippled(tf.constant(x)), rtol=1e-6)

    def cosine(g):
        g = np.asarray(g).reshape(4, -1)
        return g @ SLOPE.ravel() / np.linalg.norm(g, axis=1) / np.linalg.norm(SLOPE)

    _, _, own = attacks.Source().differentiate(rippled, lambda z: z[:, 0], tf.constant(x))
    assert np.median(cosine(gradient)) > 0.7 > 0.5 > np.median(np.abs(cosine(own)))


def test_its_attack_turns_what_the_own_gradient_leaves():
    x = np.full((6, 4, 4, 1), 0.5, np.float32) + 0.04 * SLOPE + 0.01 * np.arange(6).reshape(6, 1, 1, 1) / 6
    x, y = x.astype(np.float32), np.zeros(6, int)
    budget = {"norm": "linf", "eps": 0.06, "steps": 10, "step_size": 0.015}
    own = attacks.PGD(**budget)(rippled, x, y).success
    mean = attacks.PGD(**budget, source=attacks.Smoothed(0.03, n=32))(rippled, x, y).success
    assert mean.sum() > own.sum()


def test_a_mistake_is_named():
    for arguments, words in (((0.0,), "radius"), ((0.1, "l7"), "l7"), ((0.1, "linf", 3), "n is 3, but must be even")):
        with pytest.raises(UsageError, match=words):
            attacks.Smoothed(*arguments)
