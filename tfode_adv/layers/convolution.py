"""Convolutions that pad evenly on all sides, as the papers' programs do, and one that also sees the time.

TensorFlow's "same" padding is lopsided where a convolution strides over maps of some sizes. Explicit padding is
understood by its convolutions, but the derivatives of such a convolution are computed by slow kernels on a CPU, a
hundred times slower in bfloat16. So the padding is "same" where that is even, and else zeros are laid around the maps.

The derivative of a convolution by its maps is a convolution too, of stride 1 with the kernel turned by half a turn. It
is written so: the kernels that TensorFlow has for that derivative take, without AVX-512, up to 2.5 times as long as
those for a convolution, and 17 to 28 times in bfloat16 (results/benchmarks/convolution.md).
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfode_adv.errors import check_choice, check_integer, check_range
from tfode_adv.layers.channels import check_channels_last
from tfode_adv.layers.initializers import INITIALIZATIONS, bias_initializer, kernel_initializer


def conv2d(x: tf.Tensor, kernel: tf.Tensor, strides: int, padding: int) -> tf.Tensor:
    """The convolution of maps `[B, H, W, C]` with `padding` zero pixels on every side."""
    name = _padding_name(x, kernel, strides, padding)
    if name == "SAME" and strides == 1:
        return _of_stride_1(x, kernel)
    return tf.nn.conv2d(x if name else tf.pad(x, _every_side(padding)), kernel, strides, name or "VALID")


def conv2d_transpose(y: tf.Tensor, kernel: tf.Tensor, like: tf.Tensor, strides: int, padding: int) -> tf.Tensor:
    """The transpose of `conv2d` of maps that are shaped as `like`, at `y`; its result has that shape."""
    name = _padding_name(like, kernel, strides, padding)
    if name == "SAME" and strides == 1:
        x = _of_stride_1(y, _turned(kernel))
    elif name:
        x = tf.nn.conv2d_transpose(y, kernel, tf.shape(like), strides, name)
    else:
        padded = tf.shape(like) + [0, 2 * padding, 2 * padding, 0]
        x = tf.nn.conv2d_transpose(y, kernel, padded, strides, "VALID")[:, padding:-padding, padding:-padding]
    return tf.ensure_shape(x, like.shape)


@tf.custom_gradient
def _of_stride_1(x: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    """A convolution whose result has its maps' height and width."""

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        by_kernel = tf.raw_ops.Conv2DBackpropFilter(
            input=x, filter_sizes=kernel.shape, out_backprop=upstream, strides=[1, 1, 1, 1], padding="SAME"
        )
        return _of_stride_1(upstream, _turned(kernel)), by_kernel

    return tf.nn.conv2d(x, kernel, 1, "SAME"), gradient


def _turned(kernel: tf.Tensor) -> tf.Tensor:
    """The kernel of the transpose of a convolution of stride 1."""
    return tf.transpose(tf.reverse(kernel, [0, 1]), [0, 1, 3, 2])


def _every_side(padding: int) -> list[list[int]]:
    return [[0, 0], [padding, padding], [padding, padding], [0, 0]]


def _padding_name(maps: tf.Tensor, kernel: tf.Tensor, strides: int, padding: int) -> str | None:
    """TensorFlow's name of `padding` pixels on every side of `maps`, None if it has none."""
    if padding == 0:
        return "VALID"
    added = (_same_padding(size, kernel.shape[0], strides) for size in maps.shape[1:3])
    return "SAME" if all(total == 2 * padding for total in added) else None


def _same_padding(size: int | None, kernel_size: int, strides: int) -> int | None:
    """How many pixels "same" adds to a height or width; None if that hangs on a size that is not known."""
    if strides == 1:
        return kernel_size - 1
    return None if size is None else max(0, (-(-size // strides) - 1) * strides + kernel_size - size)


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
        y = conv2d(x, tf.convert_to_tensor(self.kernel), self.strides, self.padding)
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
        y = tf.nn.bias_add(conv2d(h, kernel[:, :, 1:], 1, padding=1), self.bias)
        along = tf.cast(t, h.dtype) * response
        # The derivative of a sum of two broadcast shapes asks for both, which a solve would keep.
        return tf.add_n([y, along]) if along.shape[0] == y.shape[0] else y + along

    def compute_output_shape(self, t_shape: Any = None, h_shape: Any = None) -> tuple[int | None, ...]:
        return h_shape

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"filters": self.filters, "initialization": self.initialization}
