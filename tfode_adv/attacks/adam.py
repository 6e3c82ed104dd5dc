"""Adam without variables: its state travels with the samples that it belongs to."""

import tensorflow as tf

from tfode_adv.attacks import norms


def init(x: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns Adam's state for `x` [B, ...], one clock a sample."""
    return {"t": tf.zeros([tf.shape(x)[0]]), "m": tf.zeros_like(x), "v": tf.zeros_like(x)}


def update(
    state: dict[str, tf.Tensor], gradient: tf.Tensor, learning_rate: tf.Tensor | float
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Returns what to add to `x` to go down along `gradient` (Kingma and Ba 2015), and the next state."""
    t = state["t"] + 1.0
    m = 0.9 * state["m"] + 0.1 * gradient
    v = 0.999 * state["v"] + 0.001 * tf.square(gradient)
    clock = norms.column(t, gradient)
    m_hat, v_hat = m / (1.0 - 0.9**clock), v / (1.0 - 0.999**clock)
    return -learning_rate * m_hat / (tf.sqrt(v_hat) + 1e-8), {"t": t, "m": m, "v": v}
