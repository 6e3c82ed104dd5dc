"""GAINS's dynamics, which do not normalise."""

from typing import Any

import keras
import tensorflow as tf

from tfode_adv.errors import check_integer
from tfode_adv.layers.convolution import TimeConv2D


@keras.saving.register_keras_serializable(package="tfode_adv")
class ReLUDynamics(keras.layers.Layer):
    """conv([t, h]) - ReLU - conv([t, h]) - ReLU.

    Zeqiri et al., "Efficient Certified Training and Robustness Verification of Neural ODEs", ICLR 2023, as the
    program published with it builds them. ReLU comes last, so that no part of the state ever falls.

    Calling it takes t, a scalar or one time a sample `[B, 1, 1, 1]`, and the state h
    `[B, H, W, filters]`; it returns dh/dt of h's shape.

    Args:
        filters: the state's channels, positive.
        initialization: `"torch"` or `"keras"`, see `initializers`.

    Raises:
        UsageError: an argument out of range.
    """

    def __init__(self, filters: int, initialization: str = "torch", **kwargs):
        super().__init__(**kwargs)
        self.filters = check_integer("filters", filters, low=1)
        self.initialization = initialization
        self.conv1, self.conv2 = (
            TimeConv2D(self.filters, initialization, name=name, dtype=self.dtype_policy) for name in ("conv1", "conv2")
        )

    def build(self, t_shape: Any = None, h_shape: Any = None) -> None:
        for conv in (self.conv1, self.conv2):
            conv.build()
        self.built = True

    def call(self, t: tf.Tensor, h: tf.Tensor) -> tf.Tensor:
        return tf.nn.relu(self.conv2(t, tf.nn.relu(self.conv1(t, h))))

    def compute_output_shape(self, t_shape: Any = None, h_shape: Any = None) -> tuple[int | None, ...]:
        return h_shape

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"filters": self.filters, "initialization": self.initialization}
