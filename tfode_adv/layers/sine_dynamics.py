"""SODEF's dynamics: one dense layer and a sine."""

from typing import Any

import keras
import tensorflow as tf

from tfode_adv.errors import check_integer
from tfode_adv.layers.initializers import bias_initializer, kernel_initializer


@keras.saving.register_keras_serializable(package="tfode_adv")
class SineDynamics(keras.layers.Layer):
    """sin(-(W h + b)): bounded dynamics of a vector, the same at all times.

    Kang et al., "Stable Neural ODE with Lyapunov-Stable Equilibrium Points for Defending Against Adversarial
    Attacks", NeurIPS 2021, as the program published with it builds them.

    Calling it takes the state h `[B, units]`; it returns dh/dt of h's shape, each entry in [-1, 1].

    Args:
        units: how many numbers the state has, positive.
        initialization: `"torch"` or `"keras"`, see `initializers`.

    Raises:
        UsageError: an argument out of range.
    """

    def __init__(self, units: int, initialization: str = "torch", **kwargs):
        super().__init__(**kwargs)
        self.units = check_integer("units", units, low=1)
        self.initialization = initialization
        self.dense = keras.layers.Dense(
            self.units,
            kernel_initializer=kernel_initializer(initialization),
            bias_initializer=bias_initializer(initialization, self.units),
            name="dense",
            dtype=self.dtype_policy,
        )

    def build(self, h_shape: Any = None) -> None:
        self.dense.build((None, self.units))
        self.built = True

    def call(self, h: tf.Tensor) -> tf.Tensor:
        return tf.sin(-self.dense(h))

    def compute_output_shape(self, h_shape: Any = None) -> tuple[int | None, ...]:
        return h_shape

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"units": self.units, "initialization": self.initialization}
