"""Layers without weights that bring maps into the shape the next layer wants."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfode_adv.errors import check_choice, check_integer, check_range
from tfode_adv.layers.channels import check_channels_last
from tfode_adv.layers.skew import STRIDE_KERNELS, start_size
from tfode_adv.solvers.runge_kutta import exact

_SIZES = ("height of the maps", "width of the maps")


@keras.saving.register_keras_serializable(package="tfode_adv")
class TileChannels(keras.layers.Layer):
    """Repeats the channels until there are `filters`, and keeps every `strides`-th pixel.

    Maps `[B, H, W, C]` become `[B, H', W', filters]`; when `filters` is no multiple of C, the remainder takes
    the first channels, and when it is smaller than C, only those. H' is H for strides 1 and (H - 2) // 2 + 1
    for strides 2. It is how SONet starts y and how ODENet widens its image (MSML 2021).

    Args:
        filters: channels of the output, positive.
        strides: 1 or 2.

    Raises:
        UsageError: an argument out of range; at build, maps too small to stride over.
    """

    def __init__(self, filters: int, strides: int = 1, **kwargs):
        super().__init__(**kwargs)
        check_channels_last(self)
        self.filters = check_integer("filters", filters, low=1)
        self.strides = check_choice("strides", strides, STRIDE_KERNELS)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        for name, size in zip(_SIZES, input_shape[1:3], strict=True):
            if size is not None:
                check_range(name, size, low=self.strides)
        super().build(input_shape)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        if self.strides > 1:
            height, width = (start_size(tf.shape(x)[axis], self.strides) for axis in (1, 2))
            x = x[:, :: self.strides, :: self.strides][:, :height, :width]
        repeats = -(-self.filters // x.shape[3])
        return tf.tile(x, [1, 1, 1, repeats])[..., : self.filters]

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        batch, height, width, _ = input_shape
        return (batch, start_size(height, self.strides), start_size(width, self.strides), self.filters)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"filters": self.filters, "strides": self.strides}


@keras.saving.register_keras_serializable(package="tfode_adv")
class AppendConstant(keras.layers.Layer):
    """Vectors `[B, features]` followed by `units` entries of one value: `[B, features + units]`.

    SONet's classifier starts its outputs at 0.1 (MSML 2021's program).

    Args:
        units: how many entries are added, positive.
        value: what they hold.

    Raises:
        UsageError: units out of range.
    """

    def __init__(self, units: int, value: float = 0.1, **kwargs):
        super().__init__(**kwargs)
        self.units = check_integer("units", units, low=1)
        self.value = value

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.pad(x, [[0, 0], [0, self.units]], constant_values=exact(self.value, x.dtype))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], input_shape[1] + self.units)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"units": self.units, "value": self.value}


@keras.saving.register_keras_serializable(package="tfode_adv")
class LastFeatures(keras.layers.Layer):
    """The last `units` entries of vectors: `[B, features]` to `[B, units]`.

    Args:
        units: how many stay, positive.

    Raises:
        UsageError: units out of range.
    """

    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        self.units = check_integer("units", units, low=1)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x[:, -self.units :]

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], self.units)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"units": self.units}


@keras.saving.register_keras_serializable(package="tfode_adv")
class AveragePoolTo(keras.layers.Layer):
    """Averages maps `[B, H, W, C]` down to `[B, size, size, C]`.

    Window i reaches from floor(i n / size) to ceil((i + 1) n / size), so windows may overlap: PyTorch's
    adaptive average pooling.

    Args:
        size: height and width of the output, positive.

    Raises:
        UsageError: size out of range; at build, maps smaller than that.
    """

    def __init__(self, size: int, **kwargs):
        super().__init__(**kwargs)
        check_channels_last(self)
        self.size = check_integer("size", size, low=1)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        for name, size in zip(_SIZES, input_shape[1:3], strict=True):
            check_range(name, size, low=self.size)
        super().build(input_shape)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        rows, columns = (tf.constant(self._windows(n), x.dtype) for n in x.shape[1:3])
        return tf.einsum("ih,bhwc,jw->bijc", rows, x, columns)

    def _windows(self, length: int) -> np.ndarray:
        starts = np.arange(self.size) * length // self.size
        ends = -(-np.arange(1, self.size + 1) * length // self.size)
        pixels = np.arange(length)
        inside = (pixels >= starts[:, None]) & (pixels < ends[:, None])
        return inside / (ends - starts)[:, None]

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], self.size, self.size, input_shape[3])

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"size": self.size}


@keras.saving.register_keras_serializable(package="tfode_adv")
class Zeros(keras.layers.Layer):
    """Zeros `[B, units]` for inputs `[B, ...]`: where logits start that an ODE moves (LyaNet, ICML 2022).

    Args:
        units: how many a sample, positive.

    Raises:
        UsageError: an argument out of range.
    """

    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        self.units = check_integer("units", units, low=1)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.zeros([tf.shape(x)[0], self.units], self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], self.units)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"units": self.units}
