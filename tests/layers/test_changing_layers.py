"""A dynamics is one function throughout a solve, in training too."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfode_adv.errors import UsageError
from tfode_adv.layers import ODEBlock


class Shaken(keras.layers.Layer):
    """Random in its own way, with Keras's numbers."""

    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, h):
        return h + keras.random.normal((2,), seed=self.seeds)


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.Dropout(0.5),
        keras.layers.GaussianNoise(0.1),
        keras.layers.SpatialDropout1D(0.5),
        keras.layers.BatchNormalization(),
        keras.layers.SpectralNormalization(keras.layers.Dense(2)),
        keras.layers.RNN(keras.layers.GRUCell(2, recurrent_dropout=0.5)),
        Shaken(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_that_change_between_evaluations_are_refused(layer):
    shape = (3, 2) if type(layer).__name__ in ("SpatialDropout1D", "RNN") else (2,)
    block = ODEBlock(keras.Sequential([keras.Sequential([layer])]), solver="euler")
    with pytest.raises(UsageError, match="the dynamics holds the .* layer .* put it before or after the block"):
        block.build((None, *shape))


def test_a_layer_may_not_begin_to_change():
    frozen = keras.layers.BatchNormalization(trainable=False)
    block = ODEBlock(keras.Sequential([frozen]), solver="euler")
    block.build((None, 2))
    frozen.trainable = True
    with pytest.raises(UsageError, match="BatchNormalization layer"):
        block(tf.ones([2, 2]))


def test_a_recurrent_cell_without_dropout_is_a_dynamics():
    """h' = GRU(0, h) - h, the GRU-ODE."""

    class Gated(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.cell = keras.layers.GRUCell(2)

        def call(self, h):
            return self.cell(tf.zeros_like(h), [h])[0] - h

    dynamics = Gated()
    end = ODEBlock(dynamics, solver="euler")(tf.ones([3, 2]))
    np.testing.assert_allclose(end, dynamics.cell(tf.zeros([3, 2]), [tf.ones([3, 2])])[0], rtol=1e-5)


def test_those_that_change_nothing_may_stay():
    frozen = keras.layers.BatchNormalization(trainable=False, epsilon=0.0)
    block = ODEBlock(keras.Sequential([keras.layers.Dropout(0.0), frozen]), solver="euler")
    np.testing.assert_allclose(block(tf.ones([2, 2])), 2)
