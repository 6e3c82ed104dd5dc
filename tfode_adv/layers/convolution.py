"""Convolutions that pad evenly on all sides, as the papers' programs do, and one that also sees the time.

TensorFlow's "same" padding is lopsided wherever a convolution strides, so the padding here is explicit.
"""

from typing import Any

import keras
import tensorflow as tf

from tfode_adv.errors import check_choice, check_integer, check_range
from tfode_adv.layers.channels import check_channels_last
from tfode_adv.layers.initializers import INITIALIZATIONS, bias_initializer, kernel_initializer


def explicit(padding: int) -> list[list[int]]:
    """The `padding=` of TensorFlow's convolutions that adds `padding` pixels on every side of NHWC maps."""
    return [[0, 0], [padding, padding], [padding, padding], [0, 0]]


def convolved_size(size: int | None, kernel_size: int, strides: int, padding: int) -> int | None:
    """Height or width after a convolution; None stays None."""
    return None if size is None else (size + 2 * padding - kernel_size) // strides + 1


@keras.saving.register_keras_serializable(package="tfode_adv")
class Conv2D(keras.layers.Layer):
    """A square convolution of NHWC maps with symmetric padding.

    Maps `[B, H, W, C]` become `[B, (H + 2 padding - kernel_size) // strides + 1, ..., filters]`.

    Args:
        filters: output channels, positive.
        kernel_size: height and width of the kernel, positive.
        strides: step in both directions, positive.
        padding: zero pixels added on every side.
        use_bias: whether a bias is added.
        initialization: `"torch"` or `"keras"`, see `initializers`.

    Raises:
        UsageError: an argument out of range; at build, maps smaller than the kernel.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int = 3,
        strides: int = 1,
        padding: int = 1,
        use_bias: bool = True,
        initialization: str = "torch",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_channels_last(self)
        self.filters = check_integer("filters", filters, low=1)
        self.kernel_size = check_integer("kernel_size", kernel_size, low=1)
        self.strides = check_integer("strides", strides, low=1)
        self.padding = check_integer("padding", padding, low=0)
        self.use_bias = use_bias
        self.initialization = check_choice("initialization", initialization, INITIALIZATIONS)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        for side, size in zip(("height", "width"), input_shape[1:3], strict=True):
            if size is not None:
                check_range(f"{self.name}'s input {side}", size, low=max(1, self.kernel_size - 2 * self.padding))
        channels = input_shape[-1]
        self.kernel = self.add_weight(
            shape=(self.kernel_size, self.kernel_size, channels, self.filters),
            initializer=kernel_initializer(self.initialization),
            name="kernel",
        )
        self.bias = None
        if self.use_bias:
            bias = bias_initializer(self.initialization, self.kernel_size**2 * channels)
            self.bias = self.add_weight(shape=(self.filters,), initializer=bias, name="bias")
        super().build(input_shape)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        y = tf.nn.conv2d(x, self.kernel, self.strides, explicit(self.padding))
        return y if self.bias is None else tf.nn.bias_add(y, self.bias)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        batch, height, width, _ = input_shape
        sizes = (convolved_size(n, self.kernel_size, self.strides, self.padding) for n in (height, width))
        return (batch, *sizes, self.filters)

    def get_config(self) -> dict[str, Any]:
        names = ("filters", "kernel_size", "strides", "padding", "use_bias", "initialization")
        return super().get_config() | {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable(package="tfode_adv")
class TimeConv2D(keras.layers.Layer):
    """A 3 x 3 convolution of padding 1 over maps with the time as their first channel: conv([t, h]).

    The kernel is one weight, `[3, 3, 1 + filters, filters]`, but t is never concatenated: a convolution is
    linear, so conv([t, h]) = conv(h) + t c with c the time channel's kernel convolved with a map of ones,
    one `[1, H, W, filters]` for the whole batch.

    Calling it takes t, a scalar or `[B, 1, 1, 1]`, and maps `[B, H, W, filters]`; the shape stays.

    Args:
        filters: channels of the input (without the time) and of the output, positive.
        initialization: `"torch"` or `"keras"`, see `initializers`.

    Raises:
        UsageError: an argument out of range.
    """

    def __init__(self, filters: int, initialization: str = "torch", **kwargs):
        super().__init__(**kwargs)
        check_channels_last(self)
        self.filters = check_integer("filters", filters, low=1)
        self.initialization = check_choice("initialization", initialization, INITIALIZATIONS)

    def build(self, t_shape: Any = None, h_shape: Any = None) -> None:
        kernel, bias = kernel_initializer(self.initialization), (self.initialization, 9 * (self.filters + 1))
        shape = (3, 3, self.filters + 1, self.filters)
        self.kernel = self.add_weight(shape=shape, initializer=kernel, name="kernel")
        self.bias = self.add_weight(shape=(self.filters,), initializer=bias_initializer(*bias), name="bias")
        self.built = True

    def call(self, t: tf.Tensor, h: tf.Tensor) -> tf.Tensor:
        kernel = tf.convert_to_tensor(self.kernel)
        ones = tf.ones([1, tf.shape(h)[1], tf.shape(h)[2], 1], h.dtype)
        response = tf.nn.conv2d(ones, kernel[:, :, :1], 1, "SAME")
        y = tf.nn.bias_add(tf.nn.conv2d(h, kernel[:, :, 1:], 1, "SAME"), self.bias)
        return y + tf.cast(t, h.dtype) * response

    def compute_output_shape(self, t_shape: Any = None, h_shape: Any = None) -> tuple[int | None, ...]:
        return h_shape

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"filters": self.filters, "initialization": self.initialization}
