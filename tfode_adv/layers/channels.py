"""Where the channels of a map stand: last."""

from typing import Any

import keras

from tfode_adv.errors import UsageError


def check_channels_last(layer: Any) -> None:
    """Checks that Keras is set to the maps `[B, H, W, C]` that `layer` takes.

    Raises:
        UsageError: if Keras's other layers would hand it `[B, C, H, W]`.
    """
    if keras.config.image_data_format() != "channels_last":
        raise UsageError(
            f"Keras's image_data_format is {keras.config.image_data_format()!r}, but {type(layer).__name__} takes maps "
            "[B, H, W, C]: call keras.config.set_image_data_format('channels_last')"
        )
