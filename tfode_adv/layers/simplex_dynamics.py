"""LyaNet's dynamics: logits that move among the corners of a simplex, by weights that the image says."""

import math
from typing import Any

import keras
import tensorflow as tf

from tfode_adv.errors import check_integer, check_range
from tfode_adv.layers.initializers import bias_initializer, kernel_initializer

# How far a corner is from 0 along each class: its own, and against all others.
CORNER = 15.0
# So that a distance or direction that happens to be none has a derivative.
SPECK = 1e-24


@keras.saving.register_keras_serializable(package="tfode_adv")
class SimplexDynamics(keras.layers.Layer):
    """Where logits move: in the direction that two dense layers say, as fast as the corners ahead are far.

    Rodriguez, Ames, Yue, "LyaNet: A Lyapunov Framework for Training Neural ODEs", ICML 2022, as the program published
    with it computes it. Of logits h and an image's matrix M the direction is n = v / |v|,

        v = W2 PReLU(M PReLU(W1 h + b1)) + b2,

    dropout before each PReLU; and dh/dt = 100 log(15 sqrt(C)) mean_i(d_i softmax(a)_i) n, where d_i is the distance to
    corner i of C, which has 15 at i and -15 elsewhere, and a_i how far it lies ahead, (c_i - h) . n.

    Calling it takes the state h `[B, classes]`, or `[B, S, classes]` for S states of each image, and the condition
    `[B, units * units]`, M row by row; it returns dh/dt of h's shape.

    Args:
        classes: logits, at least 2.
        units: rows and columns of an image's matrix, positive.
        dropout: the share left out in training, in [0, 1).
        initialization: `"torch"` or `"keras"`, see `initializers`.

    Raises:
        UsageError: an argument out of range.
    """

    GAIN = 100.0

    def __init__(
        self, classes: int, units: int = 128, dropout: float = 0.5, initialization: str = "torch", **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.classes = check_integer("classes", classes, low=2)
        self.units = check_integer("units", units, low=1)
        self.dropout = check_range("dropout", dropout, low=0, high=1, high_open=True)
        self.initialization = initialization
        self.hidden = self._dense(self.units, self.classes, "hidden")
        self.direction = self._dense(self.classes, self.units, "direction")
        self.leaky = keras.layers.PReLU(
            keras.initializers.Constant(0.25), shared_axes=[1, 2], name="leaky", dtype=self.dtype_policy
        )
        self.left_out = keras.layers.Dropout(self.dropout, name="left_out", dtype=self.dtype_policy)

    def _dense(self, units: int, inputs: int, name: str) -> keras.layers.Dense:
        return keras.layers.Dense(
            units,
            kernel_initializer=kernel_initializer(self.initialization),
            bias_initializer=bias_initializer(self.initialization, inputs),
            name=name,
            dtype=self.dtype_policy,
        )

    def build(self, h_shape: Any = None, condition_shape: Any = None) -> None:
        self.hidden.build((None, None, self.classes))
        self.direction.build((None, None, self.units))
        self.leaky.build((None, None, self.units))
        self.built = True

    def call(self, h: tf.Tensor, condition: tf.Tensor) -> tf.Tensor:
        states = tf.reshape(h, [tf.shape(h)[0], math.prod(h.shape[1:-1]), self.classes])
        matrix = tf.reshape(condition, [-1, self.units, self.units])
        found = self.leaky(self.left_out(self.hidden(states)))
        found = self.leaky(self.left_out(tf.matmul(found, matrix, transpose_b=True)))
        ahead = _unit_vector(self.direction(found))
        return tf.reshape(self._speed(states, ahead) * ahead, tf.shape(h))

    def _speed(self, states: tf.Tensor, ahead: tf.Tensor) -> tf.Tensor:
        """How fast [B, S, 1] states [B, S, C] move in unit directions [B, S, C]."""
        unit = tf.maximum(_largest(states), CORNER)
        near, corner = states / unit, CORNER / unit
        # Of corner c_i = 2 * 15 e_i - 15, by its entries' sums: no differences [B, S, C, C].
        squares = tf.reduce_sum(near**2 + 2 * corner * near, axis=-1, keepdims=True)
        squares += self.classes * corner**2 - 4 * corner * near
        distances = unit * tf.sqrt(tf.maximum(squares, SPECK))
        along = 2 * CORNER * ahead - CORNER * tf.reduce_sum(ahead, axis=-1, keepdims=True)
        along -= tf.reduce_sum(states * ahead, axis=-1, keepdims=True)
        rate = self.GAIN * math.log(radius(self.classes))
        return rate * tf.reduce_mean(distances * tf.nn.softmax(along), axis=-1, keepdims=True)

    def compute_output_shape(self, h_shape: Any = None, condition_shape: Any = None) -> tuple[int | None, ...]:
        return h_shape

    def get_config(self) -> dict[str, Any]:
        names = ("classes", "units", "dropout", "initialization")
        return super().get_config() | {name: getattr(self, name) for name in names}


def radius(classes: int) -> float:
    """How far the corners are from 0, 15 sqrt(classes); LyaNet's loss is to fall at the rate of its logarithm."""
    return CORNER * math.sqrt(classes)


def _largest(vectors: tf.Tensor) -> tf.Tensor:
    """The largest entries [..., 1] of vectors [..., C], for units: logits that went far have no squares in float32."""
    return tf.stop_gradient(tf.reduce_max(tf.abs(vectors), axis=-1, keepdims=True))


def _unit_vector(vectors: tf.Tensor) -> tf.Tensor:
    vectors = tf.math.divide_no_nan(vectors, _largest(vectors))
    return vectors * tf.math.rsqrt(tf.reduce_sum(vectors**2, axis=-1, keepdims=True) + SPECK)
