"""A dynamics is one function throughout a solve, in training too."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfode_adv.errors import UsageError
from tfode_adv.layers import ODEBlock


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.Dropout(0.5),
        keras.layers.GaussianNoise(0.1),
        keras.layers.SpatialDropout1D(0.5),
        keras.layers.BatchNormalization(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_that_change_between_evaluations_are_refused(layer):
    shape = (3, 2) if "1D" in type(layer).__name__ else (2,)
    block = ODEBlock(keras.Sequential([keras.Sequential([layer])]), solver="euler")
    with pytest.raises(UsageError, match=f"{type(layer).__name__} layer .* put it before or after the block"):
        block.build((None, *shape))


def test_those_that_change_nothing_may_stay():
    frozen = keras.layers.BatchNormalization(trainable=False, epsilon=0.0)
    block = ODEBlock(keras.Sequential([keras.layers.Dropout(0.0), frozen]), solver="euler")
    np.testing.assert_allclose(block(tf.ones([2, 2])), 2)
