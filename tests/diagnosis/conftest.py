"""A toy problem of 7 x 7 images, a network that is honest about it, one that hides its gradients, and a tiny
network with an ODE block."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfode_adv import layers
from tfode_adv.diagnosis.measurements import Images
from tfode_adv.diagnosis.probe import Probe

CLASSES = 3


@pytest.fixture(scope="session")
def toy():
    """Images [400, 7, 7, 1] around one random image a class, and labels."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(0.25, 0.75, size=(CLASSES, 7, 7, 1))
    y = rng.integers(0, CLASSES, 400)
    x = np.clip(centres[y] + 0.08 * rng.standard_normal((400, 7, 7, 1)), 0, 1).astype(np.float32)
    return x, y


@pytest.fixture(scope="session")
def images(toy):
    x, y = toy
    return Images(x[:40], y[:40], x[40:80])


@pytest.fixture(scope="session")
def honest(toy):
    """A small network, trained on the toy problem: smooth, and open to any attack."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((7, 7, 1)),
            keras.layers.Conv2D(8, 3, strides=2, activation="tanh"),
            keras.layers.Flatten(),
            keras.layers.Dense(16, activation="tanh"),
            keras.layers.Dense(CLASSES),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*toy, epochs=15, verbose=0)
    return model


class Quantizer(keras.layers.Layer):
    """Steps of a tenth: the gradient is zero wherever there is one."""

    def call(self, x):
        return tf.round(x * 10) / 10


@pytest.fixture(scope="session")
def masked(honest):
    """The same network behind a quantiser."""
    image = keras.Input((7, 7, 1))
    return keras.Model(image, honest(Quantizer()(image)))


RATES = np.linspace(-0.5, 1.0, 8).astype(np.float32)


@pytest.fixture(scope="session")
def ode_probe():
    """A tiny network around an ODE block with coupled, nonlinear dynamics."""
    keras.utils.set_random_seed(1)
    weights = tf.constant(np.random.default_rng(1).normal(size=(8, 8)), tf.float32)
    image = keras.Input((4, 4, 1))
    state = keras.layers.Dense(8)(keras.layers.Flatten()(image))
    state = layers.ODEBlock(lambda t, h: tf.tanh(h @ weights) - h, solver="heun2", tol=1e-2, name="flow")(state)
    return Probe(keras.Model(image, keras.layers.Dense(CLASSES)(state)), batch_size=32)


@pytest.fixture(scope="session")
def failing_probe():
    """Two pixels are the two logits, less a logarithm that is none from 0.5 on: there the solve fails."""
    image = keras.Input((1, 2, 1))
    state = keras.layers.Flatten()(image)
    return Probe(keras.Model(image, layers.ODEBlock(lambda t, h: -tf.math.log(0.5 - h), solver="euler")(state)))


@pytest.fixture(scope="session")
def ode_images(ode_probe):
    """Images and the network's own predictions."""
    x = np.random.default_rng(2).uniform(size=(24, 4, 4, 1)).astype(np.float32)
    return x, ode_probe.predict(x, tol=1e-2)
