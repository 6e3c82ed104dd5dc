"""Group normalisation at little more than the cost of reading the image twice."""

from typing import Any

import keras
import tensorflow as tf

from tfode_adv.errors import UsageError, check_choice, check_integer, check_range
from tfode_adv.layers.channels import check_channels_last

ACTIVATIONS = (None, "relu")
ONE_SUM_PIXELS = 200


def group_count(name: str, channels: int, groups: int) -> int:
    """The groups that `channels` channels fall into: `groups`, or one a channel when there are fewer.

    Raises:
        UsageError: the channels do not divide evenly; `name` says whose they are.
    """
    groups = min(groups, channels)
    if groups < 1 or channels % groups:
        raise UsageError(f"{name} is {channels}, but must be divisible into {groups} groups")
    return groups


def group_normalization(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, groups: int, epsilon: float = 1e-5, relu: bool = False
) -> tf.Tensor:
    """Group normalisation (Wu, He, "Group Normalization", 2018, equation 7) of NHWC maps, then maybe ReLU.

    The mean and the variance come from two sums per channel and are folded into one scale and
    one shift per channel. The sums are float32 (float64 for float64 maps), whatever the maps are.

    Args:
        x: maps `[B, H, W, C]`, of any floating type; B may be unknown or zero.
        gamma: scale `[C]`.
        beta: shift `[C]`.
        groups: how many groups the channels fall into; divides C.
        epsilon: added to the variance.
        relu: whether ReLU follows.

    Returns:
        `[B, H, W, C]`, of the type of `x`. The gradient is written by hand: it reads the maps
        fewer times than automatic differentiation would.
    """
    precise = tf.float64 if x.dtype == tf.float64 else tf.float32

    @tf.custom_gradient
    def normalize(x, gamma, beta):
        maps = tf.cast(x, precise)
        mean, inverse = _statistics(maps, groups, epsilon)
        scale = inverse * _grouped(gamma, groups)
        shift = _grouped(beta, groups) - mean * scale
        y = maps * _per_channel(scale) + _per_channel(shift)
        y = tf.cast(tf.nn.relu(y) if relu else y, x.dtype)

        def gradient(upstream):
            if relu:
                upstream = tf.raw_ops.ReluGrad(gradients=upstream, features=y)
            upstream = tf.cast(upstream, precise)
            return _gradient(upstream, tf.cast(x, precise), gamma, mean, inverse, x.dtype)

        return y, gradient

    return normalize(x, tf.cast(gamma, precise), tf.cast(beta, precise))


def _gradient(upstream, maps, gamma, mean, inverse, dtype):
    """Gradients for the maps, gamma and beta; with xhat the normalised maps and < > a group's mean,
    dx = (gamma g - <gamma g> - xhat <gamma g xhat>) / sigma, gathered by powers of x."""
    groups = inverse.shape[1]
    size = gamma.shape[0] // groups
    pixels = tf.cast(_pixels(maps), maps.dtype)
    total = _grouped(_pixel_sum(upstream), groups)
    along = (_grouped(_pixel_sum(upstream * maps), groups) - mean * total) * inverse
    gamma = tf.reshape(gamma, [1, groups, size])
    mean_total = tf.reduce_mean(gamma * total, axis=2, keepdims=True) / pixels
    mean_along = tf.reduce_mean(gamma * along, axis=2, keepdims=True) / pixels
    slope = -inverse * inverse * mean_along
    offset = -inverse * mean_total - slope * mean
    slope, offset = (_per_channel(tf.tile(each, [1, 1, size])) for each in (slope, offset))
    linear = maps * slope + offset
    dx = upstream * _per_channel(inverse * gamma) + linear
    channels = [groups * size]
    return (
        tf.cast(dx, dtype),
        tf.reshape(tf.reduce_sum(along, axis=0), channels),
        tf.reshape(tf.reduce_sum(total, axis=0), channels),
    )


def _statistics(maps, groups, epsilon):
    """Mean and 1 / standard deviation of each group, `[B, groups, 1]`."""
    pixels = tf.cast(_pixels(maps), maps.dtype)
    mean = tf.reduce_mean(_grouped(_pixel_sum(maps), groups), axis=2, keepdims=True) / pixels
    # E[x^2] - E[x]^2 would cost the same and lose digits that adaptive step sizes amplify.
    center = _per_channel(tf.tile(mean, [1, 1, maps.shape[3] // groups]))
    squares = _pixel_sum(tf.math.squared_difference(maps, center))
    variance = tf.reduce_mean(_grouped(squares, groups), axis=2, keepdims=True) / pixels
    return mean, tf.math.rsqrt(variance + epsilon)


def _pixel_sum(maps):
    """The sum over the pixels, `[B, C]`: products with rows of ones, which are faster than reduce_sum.

    Large maps are summed over their rows first: one running sum over all their pixels would round too much.
    """
    channels, pixels = maps.shape[3], _pixels(maps)
    if isinstance(pixels, int) and pixels <= ONE_SUM_PIXELS:
        return tf.matmul(tf.ones([1, pixels], maps.dtype), tf.reshape(maps, [-1, pixels, channels]))[:, 0]
    height, width = (maps.shape[axis] or tf.shape(maps)[axis] for axis in (1, 2))
    rows = tf.matmul(tf.ones([1, height], maps.dtype), tf.reshape(maps, [-1, height, width * channels]))
    return tf.reduce_sum(tf.reshape(rows, [-1, width, channels]), axis=1)


def _pixels(maps):
    """Pixels of a map: a number where the shape is known, else a tensor."""
    height, width = maps.shape[1:3]
    return height * width if height and width else tf.reduce_prod(tf.shape(maps)[1:3])


def _grouped(values, groups):
    """`[..., C]` as `[B or 1, groups, C / groups]`."""
    return tf.reshape(values, [-1, groups, values.shape[-1] // groups])


def _per_channel(values):
    """`[B, groups, C / groups]` as `[B, 1, 1, C]`."""
    return tf.reshape(values, [-1, 1, 1, values.shape[1] * values.shape[2]])


@keras.saving.register_keras_serializable(package="tfode_adv")
class GroupNormalization(keras.layers.Layer):
    """Group normalisation of NHWC maps, `[B, H, W, C]` to the same shape, with an optional fused ReLU.

    WIFS 2019 uses 32 groups, MSML 2021 uses 8; maps of fewer channels have one group a channel.
    Against `keras.layers.GroupNormalization`: epsilon is PyTorch's, and it is several times faster.

    Args:
        groups: number of groups, positive; the channels must divide evenly among
            min(groups, channels).
        epsilon: added to the variance, positive.
        activation: None or `"relu"`, applied after.

    Raises:
        UsageError: an argument out of range; at build, channels that do not divide evenly.
    """

    def __init__(self, groups: int = 32, epsilon: float = 1e-5, activation: str | None = None, **kwargs):
        super().__init__(**kwargs)
        check_channels_last(self)
        self.groups = check_integer("groups", groups, low=1)
        self.epsilon = check_range("epsilon", epsilon, low=0, low_open=True)
        self.activation = check_choice("activation", activation, ACTIVATIONS)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        channels = input_shape[-1]
        self._group_count = group_count("the number of channels", channels, self.groups)
        self.gamma = self.add_weight(shape=(channels,), initializer="ones", name="gamma", autocast=False)
        self.beta = self.add_weight(shape=(channels,), initializer="zeros", name="beta", autocast=False)
        super().build(input_shape)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return group_normalization(
            x,
            tf.convert_to_tensor(self.gamma),
            tf.convert_to_tensor(self.beta),
            self._group_count,
            self.epsilon,
            relu=self.activation == "relu",
        )

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        config = {"groups": self.groups, "epsilon": self.epsilon, "activation": self.activation}
        return super().get_config() | config
