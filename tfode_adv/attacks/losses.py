"""What attacks climb. Each loss maps logits [B, K] and labels [B] to [B]; higher is more wrong.

Where a loss takes `targeted`, that turns it around: it then grows as the label, the attack's target, wins.
"""

import tensorflow as tf

FAR = 1e9
"""Taken from a logit that is not to be the largest."""


def cross_entropy(logits: tf.Tensor, y: tf.Tensor, targeted: bool = False) -> tf.Tensor:
    """Returns the cross-entropy of the labels; minus that when targeted."""
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
    return -loss if targeted else loss


def label_and_rival(logits: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the label's logit and the largest of the others, [B] each."""
    hot = tf.one_hot(y, logits.shape[-1], dtype=logits.dtype)
    return tf.reduce_sum(hot * logits, -1), tf.reduce_max(logits - FAR * hot, -1)


def margin(logits: tf.Tensor, y: tf.Tensor, targeted: bool = False) -> tf.Tensor:
    """Returns by how much the best other class beats the label (negative: it does not)."""
    label, rival = label_and_rival(logits, y)
    return label - rival if targeted else rival - label


def dlr(logits: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Returns the difference-of-logits ratio (Croce and Hein 2020, eq. 6): the margin over z1 - z3.

    Invariant to the logits' scale, so confidence cannot flatten it. Needs 3 classes; with 2, the margin.
    """
    top = tf.sort(logits, direction="DESCENDING")
    spread = top[:, 0] - top[:, 2] if logits.shape[-1] > 2 else tf.ones_like(top[:, 0])
    return margin(logits, y) / (spread + 1e-12)


def targeted_dlr(logits: tf.Tensor, y: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Returns (z_target - z_y) / (z1 - (z3 + z4) / 2) (Croce and Hein 2020, eq. 7).

    With fewer than 4 classes there is no z4, and the difference is not scaled.
    """
    z_y, z_t = (tf.gather(logits, label, batch_dims=1) for label in (y, target))
    if logits.shape[-1] < 4:
        return z_t - z_y
    top = tf.sort(logits, direction="DESCENDING")
    return (z_t - z_y) / (top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + 1e-12)
