"""Initial value problems with known solutions, batched: `f(t, y)` on `[B, ...]` in float64."""

import numpy as np
import tensorflow as tf


def decay(t, y):
    """y' = -y cos t; y = y0 exp(-sin t)."""
    return -y * tf.cos(t)


def rotation(t, y):
    """y' = J y + t e_1, a driven rotation."""
    return tf.stack([y[:, 1] + t[:, 0], -y[:, 0]], axis=1)


def forced(t, y):
    """y' = -y + sin 2t. (Autonomous scalar problems will not do: methods converge faster than their order there.)"""
    return -y + tf.sin(2 * t)


Y0 = {
    "decay": np.array([[1.0], [-0.7], [2.0]]),
    "rotation": np.array([[1.0, 0.0], [0.3, -0.8], [-1.0, 2.0]]),
    "forced": np.array([[0.5], [1.0], [-1.7]]),
}
FIELDS = {"decay": decay, "rotation": rotation, "forced": forced}


def exact(name, t):
    """The solution at time t, `[B, ...]`."""
    y0 = Y0[name]
    if name == "decay":
        return y0 * np.exp(-np.sin(t))
    if name == "forced":
        return (np.sin(2 * t) - 2 * np.cos(2 * t)) / 5 + (y0 + 0.4) * np.exp(-t)
    # x'' + x = 1 with x = y1, and y2 = x' - t.
    x0, v0 = y0[:, 0], y0[:, 1]
    x = (x0 - 1) * np.cos(t) + v0 * np.sin(t) + 1
    v = -(x0 - 1) * np.sin(t) + v0 * np.cos(t)
    return np.stack([x, v - t], axis=1)


def oracle_fields(oracle):
    """The problems of the reference vectors."""
    spiral = tf.constant([[-0.1, 2.0], [-2.0, -0.1]], tf.float64)
    weights, bias = tf.constant(oracle["tanhnet/W"]), tf.constant(oracle["tanhnet/b"])

    def lotka(t, y):
        del t
        return tf.stack([1.5 * y[:, 0] - y[:, 0] * y[:, 1], -3 * y[:, 1] + y[:, 0] * y[:, 1]], 1)

    return {
        "spiral": lambda t, y: tf.matmul(y**3, spiral),
        "lotka": lotka,
        "vanderpol": lambda t, y: tf.stack([y[:, 1], 2 * (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0]], 1),
        "tanhnet": lambda t, y: tf.tanh(tf.matmul(y, weights, transpose_b=True) + bias * t),
    }
