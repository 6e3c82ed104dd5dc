"""TisODE's body, which normalises after each convolution: as dynamics, and as a residual block."""

from typing import Any

import keras
import tensorflow as tf

from tfode_adv.errors import check_integer
from tfode_adv.layers.convolution import Conv2D, TimeConv2D
from tfode_adv.layers.normalization import GroupNormalization, group_count


class _PostNorm(keras.layers.Layer):
    """What the two share: two convolutions, each followed by a normalisation and ReLU."""

    def __init__(self, filters: int, groups: int = 32, initialization: str = "torch", **kwargs):
        super().__init__(**kwargs)
        self.filters = check_integer("filters", filters, low=1)
        self.groups = check_integer("groups", groups, low=1)
        group_count("filters", self.filters, self.groups)
        self.initialization = initialization
        self.conv1, self.conv2 = self._conv("conv1"), self._conv("conv2")
        self.norm1, self.norm2 = (
            GroupNormalization(groups, activation="relu", name=name, dtype=self.dtype_policy)
            for name in ("norm1", "norm2")
        )

    def _conv(self, name):
        return Conv2D(
            self.filters, use_bias=False, initialization=self.initialization, name=name, dtype=self.dtype_policy
        )

    def build(self, *shapes: Any) -> None:
        for layer in (self.conv1, self.norm1, self.conv2, self.norm2):
            layer.build((None, None, None, self.filters))
        self.built = True

    def get_config(self) -> dict[str, Any]:
        names = ("filters", "groups", "initialization")
        return super().get_config() | {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable(package="tfode_adv")
class PostNormBlock(_PostNorm):
    """conv - GN - ReLU - conv - GN - ReLU plus the input: the residual block of TisODE's convolutional network.

    Yan et al., "On Robustness of Neural Ordinary Differential Equations", ICLR 2020, and the program published
    with it. No convolution has a bias. Maps `[B, H, W, filters]` keep their shape.

    Args:
        filters: channels of the input and of the output; must divide evenly among min(groups, filters).
        groups: groups of the normalisation, positive.
        initialization: `"torch"` or `"keras"`, see `initializers`.

    Raises:
        UsageError: an argument out of range, or filters that do not divide into the groups.
    """

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x + self.norm2(self.conv2(self.norm1(self.conv1(x))))


@keras.saving.register_keras_serializable(package="tfode_adv")
class PostNormDynamics(_PostNorm):
    """conv - GN - ReLU - conv - GN - ReLU, the dynamics of TisODE and of the ODENet it is compared with.

    Yan et al., "On Robustness of Neural Ordinary Differential Equations", ICLR 2020, section 4, and the program
    published with it. ReLU comes last, so that no part of the state ever falls.

    Calling it takes t, a scalar or one time a sample `[B, 1, 1, 1]`, and the state h
    `[B, H, W, filters]`; it returns dh/dt of h's shape.

    Args:
        filters: the state's channels; must divide evenly among min(groups, filters).
        time: whether the convolutions see the time, and have a bias, as ODENet's; False is TisODE's: dynamics that
            do not change in time.
        groups: groups of the normalisation, positive.
        initialization: `"torch"` or `"keras"`, see `initializers`.

    Raises:
        UsageError: an argument out of range, or filters that do not divide into the groups.
    """

    def __init__(self, filters: int, time: bool = False, groups: int = 32, initialization: str = "torch", **kwargs):
        self.time = bool(time)
        super().__init__(filters, groups, initialization, **kwargs)

    def _conv(self, name):
        if not self.time:
            return super()._conv(name)
        return TimeConv2D(self.filters, self.initialization, name=name, dtype=self.dtype_policy)

    def call(self, t: tf.Tensor, h: tf.Tensor) -> tf.Tensor:
        for conv, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2)):
            h = norm(conv(t, h) if self.time else conv(h))
        return h

    def compute_output_shape(self, t_shape: Any = None, h_shape: Any = None) -> tuple[int | None, ...]:
        return h_shape

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"time": self.time}
