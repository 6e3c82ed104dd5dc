"""Stochastic gradient descent as the published recipes ran it."""

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="tfode_adv")
class SGD(keras.optimizers.SGD):
    """SGD with heavy-ball momentum and L2 weight decay, in PyTorch's form.

    For a gradient g of the batch's mean loss: g <- g + l2 w;  m <- momentum m + g;  w <- w - rate m.
    Keras's own SGD keeps the rate inside m, so that a rate cut tenfold goes on for some ten steps at the
    old one, and decays weights apart from the gradient, which momentum then does not see.

    Args:
        learning_rate: the rate, positive.
        momentum: in [0, 1].
        l2: weight decay, at least 0, applied to every trainable variable, biases and scales included.
    """

    def __init__(self, learning_rate=0.1, momentum=0.9, l2=0.0, name="SGD", **kwargs):
        super().__init__(learning_rate=learning_rate, momentum=float(momentum), name=name, **kwargs)
        self.l2 = float(l2)

    def update_step(self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor) -> None:
        rate = keras.ops.cast(learning_rate, variable.dtype)
        step = keras.ops.cast(gradient, variable.dtype)
        if self.l2:
            step = step + self.l2 * variable
        if self.momentum:
            slot = self.momentums[self._get_variable_index(variable)]
            step = self.momentum * slot + step
            self.assign(slot, step)
        self.assign_sub(variable, rate * step)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "l2": self.l2}
