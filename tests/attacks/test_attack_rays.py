"""RayS, which sees decisions alone."""

import pytest
import tensorflow as tf

from tfode_adv import attacks
from tfode_adv.errors import UsageError


@pytest.fixture(scope="module")
def decisions(linear):
    def decide(x):
        return tf.one_hot(tf.argmax(linear(x), -1), 2)

    return decide


def test_the_nearest_corner_of_a_decision_is_found(linear, decisions):
    optimum = linear.distance("linf")
    for factor, expected in ((0.99, False), (1.01, True)):
        found = attacks.RayS(eps=factor * optimum, steps=1500)(decisions, linear.x, linear.y)
        assert (found.success == expected).all() and (found.gradients == 0).all()


def test_in_the_euclidean_norm_it_comes_near(linear, decisions):
    attack = attacks.RayS(norm="l2", eps=1.1 * linear.distance("l2"), steps=2000)
    found = attack(decisions, linear.x[:1], linear.y[:1])
    assert found.success.all() and found.distance[0] <= attack.eps * (1 + 1e-5)


def test_another_models_gradient_shows_it_where_to_begin(linear, decisions):
    eps = 1.001 * linear.distance("linf")
    alone, shown = (
        attacks.RayS(eps=eps, steps=1500, source=source)(decisions, linear.x[:1], linear.y[:1])
        for source in (None, attacks.Transfer(linear))
    )
    assert shown.success.all() and shown.queries[0] < 40 < alone.queries[0]


def test_a_restart_begins_at_random(linear, decisions):
    """Neither all of the image towards white nor all towards black changes the answer, but some of each does."""

    def needs_black(x):
        dark = tf.reduce_mean(tf.cast(x < 0.5, tf.float32), [1, 2, 3])
        return tf.one_hot(tf.cast(dark > 0.3, tf.int32) * tf.cast(dark < 0.7, tf.int32), 2)

    attack = attacks.RayS(eps=0.2, steps=2)
    again = attacks.RayS(eps=0.2, steps=2, restarts=8)
    assert not attack(needs_black, linear.x[:1], linear.y[:1]).success.any()
    assert again(needs_black, linear.x[:1], linear.y[:1]).success.all()


def test_sources_that_decisions_do_not_have_are_refused():
    with pytest.raises(UsageError, match="rays takes Transfer or None"):
        attacks.RayS(eps=0.1, source=attacks.EOT(3))
