"""Maps have their channels last: under another setting of Keras's, layers that need that are not made."""

import keras
import pytest

import tfode_adv as ta
from tfode_adv import layers
from tfode_adv.errors import UsageError


@pytest.fixture
def channels_first():
    keras.config.set_image_data_format("channels_first")
    yield
    keras.config.set_image_data_format("channels_last")


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.Conv2D(4),
        lambda: layers.TimeConv2D(4),
        lambda: layers.GroupNormalization(4),
        lambda: layers.ConvDynamics(4),
        lambda: layers.SkewDynamics(8, 8),
        lambda: layers.TileChannels(4),
        lambda: layers.AveragePoolTo(2),
        lambda: layers.BasicBlock(4),
        lambda: layers.WideBlock(4),
        lambda: layers.ResidualBlock(4),
        lambda: ta.models.build("oon", filters=8),
    ],
)
def test_channels_first_is_refused_where_a_layer_is_made(make, channels_first):
    with pytest.raises(UsageError, match="'channels_first', but .* takes maps .*set_image_data_format") as error:
        make()
    assert "\n" not in str(error.value)


def test_a_dynamics_of_vectors_may_be_made(channels_first):
    assert layers.ODEBlock(keras.layers.Dense(3), solver="euler")(keras.Input((3,))).shape == (None, 3)
