"""Masked gradients fool PGD; attacks that need none, or look round the mask, are not fooled."""

import numpy as np
import pytest
import tensorflow as tf

from tfode_adv import attacks

EPS = 0.15


@pytest.fixture(scope="module")
def masked(classifier):
    """The classifier behind a quantiser of 16 grey levels, whose slope is zero almost everywhere."""

    def model(images):
        return classifier(tf.round(images * 15.0) / 15.0)

    return model


def success(attack, model, victims):
    return attack(model, *victims).success.mean()


def test_pgd_fails_where_the_others_do_not(masked, classifier, victims):
    victims = tuple(part[:32] for part in victims)
    assert success(attacks.PGD(eps=EPS, steps=20), classifier, victims) > 0.9
    start = success(attacks.PGD(eps=EPS, steps=0), masked, victims)
    assert success(attacks.PGD(eps=EPS, steps=20), masked, victims) <= start + 0.05
    spsa = attacks.SPSA(eps=EPS, steps=30, samples=32, delta=0.05, learning_rate=0.03)
    assert success(spsa, masked, victims) > start + 0.4
    assert success(attacks.Square(eps=EPS, steps=300), masked, victims) > start + 0.4
    through = attacks.PGD(eps=EPS, steps=20, source=attacks.Through(twin=classifier))
    assert success(through, masked, victims) > start + 0.6
    transfer = attacks.PGD(eps=EPS, steps=20, source=attacks.Transfer(classifier))
    assert success(transfer, masked, victims) > start + 0.6


def test_through_keeps_the_models_own_value(masked, classifier, victims):
    x = tf.constant(victims[0][:8])
    source = attacks.Through(twin=classifier)
    np.testing.assert_array_equal(source.logits(masked, x), masked(x))
    _, logits, gradient = source.differentiate(masked, lambda z: z[:, 0], x)
    np.testing.assert_array_equal(logits, masked(x))
    expected = attacks.Source().differentiate(classifier, lambda z: z[:, 0], x)[2]
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_eot_averages_over_a_randomised_model(linear):
    """A random sign hides half of each gradient; the mean over draws finds the way that one draw does not."""

    def model(images):
        noise = 10.0 * tf.random.normal(tf.shape(images))
        score = tf.reduce_sum((images - 0.5) * (linear.weights + noise), axis=[1, 2, 3]) - linear.margin
        return tf.stack([tf.zeros_like(score), score], -1)

    def loss(logits):
        return logits[:, 1]

    def cosine(source):
        gradient = source.differentiate(model, loss, tf.constant(linear.x))[2].numpy()[0].ravel()
        weights = linear.weights.ravel()
        return gradient @ weights / np.linalg.norm(gradient) / np.linalg.norm(weights)

    tf.random.set_seed(0)
    assert cosine(attacks.Source()) < 0.5
    assert cosine(attacks.EOT(400)) > 0.8
    result = attacks.PGD(eps=0.05, steps=2, source=attacks.EOT(3), early_stop=False)(model, linear.x, linear.y)
    assert (result.gradients == 6).all()


def test_spsa_passes_over_points_that_the_model_breaks_down_on():
    """On one point of every second pair, wherever the image is."""

    def model(x):
        level = tf.reduce_mean(x, [1, 2, 3])
        odd = [tf.math.floormod(tf.floor(x[:, i, i, 0] / 0.02), 2) == 1 for i in (0, 1)]
        logits = tf.stack([0.5 - level, level - 0.5], -1)
        return tf.where((odd[0] & odd[1])[:, None], np.float32(np.nan), logits)

    x = np.full([6, 4, 4, 1], 0.41, np.float32)
    attack = attacks.SPSA(eps=0.3, steps=60, samples=16, learning_rate=0.03)
    assert attack(model, x, np.zeros(6, np.int64)).success.all()
