"""Layers that hide their gradient are found, and passed by; honest ones are left alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfode_adv.diagnosis import straight_through

SLOPES = np.array([[1.0, -2.0], [0.5, 1.0], [-1.0, 0.25], [2.0, 1.0]], np.float32)


class Apply(keras.layers.Layer):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, x):
        return self.function(x)


@tf.custom_gradient
def backwards(x):
    return tf.identity(x), lambda g: tf.roll(g, 1, axis=1)


def linear_behind(front, after=None, width=1):
    """Four pixels, a front, two logits with known slopes."""
    image = keras.Input((4, 1, 1))
    hidden = keras.layers.Flatten()(Apply(front)(image))
    dense = keras.layers.Dense(2, use_bias=False)
    logits = dense(hidden)
    dense.set_weights([np.repeat(SLOPES, width, axis=0)])
    return keras.Model(image, logits if after is None else Apply(after)(logits))


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).uniform(size=(8, 4, 1, 1)).astype(np.float32)


def slopes(function, x):
    """How the first logit less the second changes with each pixel."""
    z = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(z)
        logits = function(z)
        lead = logits[:, 0] - logits[:, 1]
    return tape.gradient(lead, z).numpy().reshape(len(x), -1), logits


@pytest.mark.parametrize("front", [lambda x: tf.round(8 * x) / 8, backwards, tf.stop_gradient])
def test_the_gradient_past_a_hiding_layer_is_the_rest_of_the_models(front, x):
    model = linear_behind(front)
    names, way = straight_through.detour(model, x)
    assert len(names) == 1
    found, logits = slopes(way, x)
    np.testing.assert_allclose(found, np.tile(SLOPES[:, 0] - SLOPES[:, 1], (8, 1)), rtol=1e-5)
    np.testing.assert_allclose(logits, model(x), rtol=1e-5)


def test_a_decision_is_left_out(x):
    model = linear_behind(tf.identity, lambda z: tf.one_hot(tf.argmax(z, -1), 2))
    names, way = straight_through.detour(model, x)
    assert len(names) == 1
    np.testing.assert_allclose(slopes(way, x)[1], linear_behind(tf.identity)(x), rtol=1e-5)


def test_a_code_of_more_channels_has_the_slope_fitted_to_it(x):
    levels = tf.constant(np.arange(1, 10, dtype=np.float32) / 10)
    names, way = straight_through.detour(linear_behind(lambda x: tf.cast(x > levels, tf.float32), width=9), x)
    found, _ = slopes(way, x)
    # Ten levels: the code's sum grows ten times as fast as the pixel.
    np.testing.assert_allclose(found, np.tile(10 * (SLOPES[:, 0] - SLOPES[:, 1]), (8, 1)), rtol=0.15)


def test_a_random_layer_is_judged_by_its_mean(x):
    def dithered(x):
        return tf.floor(8 * x + tf.random.uniform(tf.shape(x))) / 8

    tf.random.set_seed(0)
    names, way = straight_through.detour(linear_behind(dithered), x)
    assert len(names) == 1
    np.testing.assert_allclose(slopes(way, x)[0], np.tile(SLOPES[:, 0] - SLOPES[:, 1], (8, 1)), rtol=1e-5)


def test_honest_layers_are_not_passed_by(x):
    noisy = [lambda x: x + tf.random.normal(tf.shape(x), 0, 0.1), lambda x: tf.nn.dropout(x, 0.1)]
    for front in (tf.sigmoid, tf.nn.relu, lambda x: x + tf.stop_gradient(tf.round(8 * x) / 8 - x), *noisy):
        assert straight_through.detour(linear_behind(front), x) == ([], None)
