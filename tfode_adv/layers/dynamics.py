"""The dynamics that the WIFS 2019 models integrate. A dynamics is a layer `f(t, h)`, dh/dt = f(t, h)."""

from typing import Any

import keras
import tensorflow as tf

from tfode_adv.errors import check_integer
from tfode_adv.layers.convolution import TimeConv2D
from tfode_adv.layers.normalization import GroupNormalization, group_count


@keras.saving.register_keras_serializable(package="tfode_adv")
class ConvDynamics(keras.layers.Layer):
    """GN - ReLU - conv([t, h]) - GN - ReLU - conv([t, h]) - GN, the residual body as a function of time.

    WIFS 2019, section 3.1 (after Chen et al., "Neural Ordinary Differential Equations", 2018, section 3).
    The MSML comparison "ODENet" uses the same with 8 groups.

    Calling it takes t, a scalar or one time a sample `[B, 1, 1, 1]`, and the state h
    `[B, H, W, filters]`; it returns dh/dt of h's shape.

    Args:
        filters: the state's channels; must divide evenly among min(groups, filters).
        groups: groups of the normalisation, positive.
        initialization: `"torch"` or `"keras"`, see `initializers`.

    Raises:
        UsageError: an argument out of range, or filters that do not divide into the groups.
    """

    def __init__(self, filters: int, groups: int = 32, initialization: str = "torch", **kwargs):
        super().__init__(**kwargs)
        self.filters = check_integer("filters", filters, low=1)
        self.groups = check_integer("groups", groups, low=1)
        group_count("filters", self.filters, self.groups)
        self.initialization = initialization
        self.norm1 = GroupNormalization(groups, activation="relu", name="norm1", dtype=self.dtype_policy)
        self.conv1 = TimeConv2D(filters, initialization, name="conv1", dtype=self.dtype_policy)
        self.norm2 = GroupNormalization(groups, activation="relu", name="norm2", dtype=self.dtype_policy)
        self.conv2 = TimeConv2D(filters, initialization, name="conv2", dtype=self.dtype_policy)
        self.norm3 = GroupNormalization(groups, name="norm3", dtype=self.dtype_policy)

    def build(self, t_shape: Any = None, h_shape: Any = None) -> None:
        shape = (None, None, None, self.filters)
        for norm in (self.norm1, self.norm2, self.norm3):
            norm.build(shape)
        for conv in (self.conv1, self.conv2):
            conv.build()
        self.built = True

    def call(self, t: tf.Tensor, h: tf.Tensor) -> tf.Tensor:
        h = self.conv1(t, self.norm1(h))
        h = self.conv2(t, self.norm2(h))
        return self.norm3(h)

    def compute_output_shape(self, t_shape: Any = None, h_shape: Any = None) -> tuple[int | None, ...]:
        return h_shape

    def get_config(self) -> dict[str, Any]:
        names = ("filters", "groups", "initialization")
        return super().get_config() | {name: getattr(self, name) for name in names}
