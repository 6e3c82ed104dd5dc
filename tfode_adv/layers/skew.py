"""The skew-symmetric dynamics of SONet: each half of the state drives the other, with opposite signs.

MSML 2021 (Huang et al., "Adversarial Robustness of Stabilized Neural ODE Might be from Obfuscated
Gradients"), section 3.2. The state is a pair (y, z), and the time does not appear. The
linearised field [[-gamma I, W], [-W^T, -gamma I]] has eigenvalues with real part -gamma, so for gamma = 0 it
neither damps nor amplifies; the normalisations and the activations between are not part of that argument.
"""

from typing import Any

import keras
import tensorflow as tf

from tfode_adv.errors import check_choice, check_integer, check_range
from tfode_adv.layers.convolution import conv2d, conv2d_transpose, convolved_size
from tfode_adv.layers.initializers import INITIALIZATIONS, bias_initializer, kernel_initializer
from tfode_adv.layers.normalization import GroupNormalization, group_count

SLOPE = 0.01  # of the leaky ReLU, PyTorch's default
STRIDE_KERNELS = {1: 3, 2: 4}


def start_size(size: int | None, strides: int) -> int | None:
    """Height or width of y for an input of height or width `size`."""
    return convolved_size(size, STRIDE_KERNELS[strides], strides, padding=1)


@keras.saving.register_keras_serializable(package="tfode_adv")
class SkewDynamics(keras.layers.Layer):
    """y' = gn(lrelu(conv(gn z; W) - gamma gn y)), z' = gn(lrelu(-convT(gn y; W) - gamma gn z)).

    One kernel W of 3 x 3, or 4 x 4 where it strides, padding 1, no bias, serves both the convolution and its
    transpose; four group normalisations; leaky ReLU of slope 0.01.

    Calling it takes t, which it does not use, and the pair of y `[B, H', W', filters]` and z
    `[B, H, W, channels]`, with H' = H for strides 1 and (H - 2) // 2 + 1 for strides 2; it returns the pair
    of their derivatives.

    Args:
        filters: channels of y; must divide evenly among min(groups, filters).
        channels: channels of z; must divide evenly among min(groups, channels).
        strides: 1 or 2.
        groups: groups of the normalisations.
        gamma: damping, not negative; the paper's models have 0.
        initialization: `"torch"` or `"keras"`, see `initializers`.

    Raises:
        UsageError: an argument out of range.
    """

    def __init__(
        self,
        filters: int,
        channels: int,
        strides: int = 1,
        groups: int = 8,
        gamma: float = 0.0,
        initialization: str = "torch",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = check_integer("filters", filters, low=1)
        self.channels = check_integer("channels", channels, low=1)
        self.strides = check_choice("strides", strides, STRIDE_KERNELS)
        self.groups = check_integer("groups", groups, low=1)
        group_count("filters", self.filters, self.groups)
        group_count("channels", self.channels, self.groups)
        self.gamma = check_range("gamma", gamma, low=0)
        self.initialization = check_choice("initialization", initialization, INITIALIZATIONS)
        names = ("norm1_1", "norm1_2", "norm2_1", "norm2_2")
        self.norms = [GroupNormalization(groups, name=name, dtype=self.dtype_policy) for name in names]

    def build(self, t_shape: Any = None, state_shape: Any = None) -> None:
        size = STRIDE_KERNELS[self.strides]
        self.kernel = self.add_weight(
            shape=(size, size, self.channels, self.filters),
            initializer=kernel_initializer(self.initialization),
            name="kernel",
        )
        for norm, channels in zip(self.norms, 2 * (self.filters, self.channels), strict=True):
            norm.build((None, None, None, channels))
        self.built = True

    def call(self, t: tf.Tensor, state: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        y, z = state
        before_y, before_z, after_y, after_z = self.norms
        normal_y, normal_z = before_y(y), before_z(z)
        kernel = tf.convert_to_tensor(self.kernel)
        towards_y = conv2d(normal_z, kernel, self.strides, padding=1)
        towards_z = -conv2d_transpose(normal_y, kernel, z, self.strides, padding=1)
        if self.gamma:
            towards_y -= self.gamma * normal_y
            towards_z -= self.gamma * normal_z
        slopes = [after_y(tf.nn.leaky_relu(towards_y, SLOPE)), after_z(tf.nn.leaky_relu(towards_z, SLOPE))]
        # A reloaded functional model passes lists where it passed tuples.
        return tf.nest.pack_sequence_as(state, slopes)

    def compute_output_shape(self, t_shape: Any = None, state_shape: Any = None) -> Any:
        return state_shape

    def get_config(self) -> dict[str, Any]:
        names = ("filters", "channels", "strides", "groups", "gamma", "initialization")
        return super().get_config() | {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable(package="tfode_adv")
class SkewDenseDynamics(keras.layers.Layer):
    """y' = W lrelu(z) + b1 - gamma y, z' = -W^T lrelu(y) + b2 - gamma z: SONet's classifier.

    The paper writes a pair; its program joins y and z to one vector, so that one norm over both controls the
    step sizes, and this follows the program.

    Calling it takes t, which it does not use, and the vectors `[B, features + units]`, y first; it returns
    their derivatives. The kernel is `[units, features]`; the bias holds b1, then b2.

    Args:
        units: size of z, the classes.
        features: size of y.
        gamma: damping, not negative.
        initialization: `"torch"` or `"keras"`, see `initializers`.

    Raises:
        UsageError: an argument out of range.
    """

    def __init__(self, units: int, features: int, gamma: float = 0.0, initialization: str = "torch", **kwargs):
        super().__init__(**kwargs)
        self.units = check_integer("units", units, low=1)
        self.features = check_integer("features", features, low=1)
        self.gamma = check_range("gamma", gamma, low=0)
        self.initialization = check_choice("initialization", initialization, INITIALIZATIONS)

    def build(self, t_shape: Any = None, state_shape: Any = None) -> None:
        self.kernel = self.add_weight(
            shape=(self.units, self.features),
            initializer=kernel_initializer(self.initialization),
            name="kernel",
        )
        self.bias = self.add_weight(
            shape=(self.features + self.units,),
            initializer=bias_initializer(self.initialization, self.units),
            name="bias",
        )
        self.built = True

    def call(self, t: tf.Tensor, state: tf.Tensor) -> tf.Tensor:
        kernel = tf.convert_to_tensor(self.kernel)
        active = tf.nn.leaky_relu(state, SLOPE)
        towards_y = tf.matmul(active[:, self.features :], kernel)
        towards_z = -tf.matmul(active[:, : self.features], kernel, transpose_b=True)
        slope = tf.nn.bias_add(tf.concat([towards_y, towards_z], axis=1), self.bias)
        return slope - self.gamma * state if self.gamma else slope

    def compute_output_shape(self, t_shape: Any = None, state_shape: Any = None) -> tuple[int | None, ...]:
        return state_shape

    def get_config(self) -> dict[str, Any]:
        names = ("units", "features", "gamma", "initialization")
        return super().get_config() | {name: getattr(self, name) for name in names}
