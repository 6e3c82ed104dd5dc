"""Residual blocks of the classifiers that the ODE models stand beside."""

import keras
import tensorflow as tf

from tfode_adv.layers.convolution import Conv2D
from tfode_adv.layers.normalization import GroupNormalization

# PyTorch's batch normalisation: epsilon 1e-5, and 0.1 of each batch's moments. Keras keeps the batch's biased
# variance in its moving average where PyTorch keeps the unbiased one.
BATCH_NORM = {"epsilon": 1e-5, "momentum": 0.9}


class _Block(keras.layers.Layer):
    """What the three blocks share: their arguments, and building sublayers one after another."""

    def __init__(self, filters: int, strides: int = 1, initialization: str = "torch", **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.strides = strides
        self.initialization = initialization

    def _conv(self, name: str, kernel_size: int = 3, strides: int = 1, use_bias: bool = False) -> Conv2D:
        padding = kernel_size // 2
        return Conv2D(
            self.filters,
            kernel_size,
            strides,
            padding,
            use_bias,
            self.initialization,
            name=name,
            dtype=self.dtype_policy,
        )

    def _batch_norm(self, name: str) -> keras.layers.BatchNormalization:
        return keras.layers.BatchNormalization(name=name, dtype=self.dtype_policy, **BATCH_NORM)

    def _needs_projection(self, input_shape) -> bool:
        return self.strides != 1 or input_shape[-1] != self.filters

    @staticmethod
    def _build_chain(shape, *layers):
        for layer in layers:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)

    def compute_output_shape(self, input_shape):
        return self.conv2.compute_output_shape(self.conv1.compute_output_shape(input_shape))

    def get_config(self):
        names = ("filters", "strides", "initialization")
        return super().get_config() | {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable(package="tfode_adv")
class ResidualBlock(_Block):
    """WIFS 2019's block: o = ReLU(GN(x)); conv - GN - ReLU - conv of o, plus the shortcut.

    The shortcut is a 1 x 1 convolution of o where the block strides, else x itself. The paper's section 3.1
    ends the body with a third GN; its program does not, and this follows the program.

    Maps `[B, H, W, C]` become `[B, (H - 1) // strides + 1, ..., filters]`.

    Args:
        filters: channels of the output.
        strides: step of the first convolution; where 1, filters must equal C.
        initialization: `"torch"` or `"keras"`, see `initializers`.

    Raises:
        UsageError: an argument out of range, or channels that do not divide into min(32, channels) groups.
    """

    def __init__(self, filters: int, strides: int = 1, initialization: str = "torch", **kwargs):
        super().__init__(filters, strides, initialization, **kwargs)
        self.norm1 = GroupNormalization(activation="relu", name="norm1", dtype=self.dtype_policy)
        self.conv1 = self._conv("conv1", strides=strides)
        self.norm2 = GroupNormalization(activation="relu", name="norm2", dtype=self.dtype_policy)
        self.conv2 = self._conv("conv2")
        self.downsample = self._conv("downsample", kernel_size=1, strides=strides) if strides != 1 else None

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self._build_chain(input_shape, self.norm1, self.conv1, self.norm2, self.conv2)
        if self.downsample is not None:
            self.downsample.build(input_shape)
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        o = self.norm1(x)
        shortcut = x if self.downsample is None else self.downsample(o)
        return shortcut + self.conv2(self.norm2(self.conv1(o)))


@keras.saving.register_keras_serializable(package="tfode_adv")
class BasicBlock(_Block):
    """conv - BN - ReLU - conv - BN plus the shortcut, then ReLU (He et al., "Deep Residual Learning", 2016).

    The shortcut is a 1 x 1 convolution and BN where shapes differ, else the input. No convolution has a bias.

    Maps `[B, H, W, C]` become `[B, (H - 1) // strides + 1, ..., filters]`.

    Args:
        filters: channels of the output.
        strides: step of the first convolution.
        initialization: `"torch"` or `"keras"`, see `initializers`.

    Raises:
        UsageError: an argument out of range.
    """

    def __init__(self, filters: int, strides: int = 1, initialization: str = "torch", **kwargs):
        super().__init__(filters, strides, initialization, **kwargs)
        self.conv1, self.bn1 = self._conv("conv1", strides=strides), self._batch_norm("bn1")
        self.conv2, self.bn2 = self._conv("conv2"), self._batch_norm("bn2")
        self.shortcut = self.shortcut_bn = None

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self._build_chain(input_shape, self.conv1, self.bn1, self.conv2, self.bn2)
        if self._needs_projection(input_shape):
            self.shortcut = self._conv("shortcut", kernel_size=1, strides=self.strides)
            self.shortcut_bn = self._batch_norm("shortcut_bn")
            self._build_chain(input_shape, self.shortcut, self.shortcut_bn)
        self.built = True

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        y = tf.nn.relu(self.bn1(self.conv1(x), training=training))
        y = self.bn2(self.conv2(y), training=training)
        if self.shortcut is not None:
            x = self.shortcut_bn(self.shortcut(x), training=training)
        return tf.nn.relu(x + y)


@keras.saving.register_keras_serializable(package="tfode_adv")
class WideBlock(_Block):
    """BN - ReLU - conv - BN - ReLU - conv plus the shortcut (Zagoruyko, Komodakis, "Wide Residual Networks").

    As in MSML 2021's program, the second convolution strides, every convolution has a bias, and the shortcut,
    a 1 x 1 convolution where shapes differ, starts from the block's input, not from its activation.

    Maps `[B, H, W, C]` become `[B, (H - 1) // strides + 1, ..., filters]`.

    Args:
        filters: channels of the output.
        strides: step of the second convolution.
        initialization: `"torch"`, `"keras"` or `"he_fan_out"`, see `initializers`.

    Raises:
        UsageError: an argument out of range.
    """

    def __init__(self, filters: int, strides: int = 1, initialization: str = "torch", **kwargs):
        super().__init__(filters, strides, initialization, **kwargs)
        self.bn1, self.conv1 = self._batch_norm("bn1"), self._conv("conv1", use_bias=True)
        self.bn2, self.conv2 = self._batch_norm("bn2"), self._conv("conv2", strides=strides, use_bias=True)
        self.shortcut = None

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self._build_chain(input_shape, self.bn1, self.conv1, self.bn2, self.conv2)
        if self._needs_projection(input_shape):
            self.shortcut = self._conv("shortcut", kernel_size=1, strides=self.strides, use_bias=True)
            self.shortcut.build(input_shape)
        self.built = True

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        y = self.conv1(tf.nn.relu(self.bn1(x, training=training)))
        y = self.conv2(tf.nn.relu(self.bn2(y, training=training)))
        return y + (x if self.shortcut is None else self.shortcut(x))
