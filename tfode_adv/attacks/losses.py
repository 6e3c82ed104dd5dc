"""What attacks climb. Each loss maps logits [B, K] and labels [B] to [B]; higher is more wrong.

Where a loss takes `targeted`, that turns it around: it then grows as the label, the attack's target, wins.
"""

import math

import tensorflow as tf

REGULAR = 1e-3, 1e3
"""The spread of a sample's logits within which losses that know a scale take them as they are."""
_USUAL = 10.0
_CERTAIN = 17.5
"""How far ahead the label may be before float32 has rounded its probability to 1, and its gradient to nothing."""
ROUNDING = 2.0**-8
"""Half a rounding step of bfloat16, whose logits are often equal."""


def spread(logits: tf.Tensor) -> tf.Tensor:
    """Returns the largest less the smallest of `logits` [..., K], as [..., 1]."""
    return tf.reduce_max(logits, -1, keepdims=True) - tf.reduce_min(logits, -1, keepdims=True)


def level(logits: tf.Tensor) -> tf.Tensor:
    """Returns the factor [..., 1] that brings `logits` [..., K] to a usual spread: 1 where it is regular or zero."""
    wide = spread(logits)
    regular = ((wide >= REGULAR[0]) & (wide <= REGULAR[1])) | (wide == 0) | ~tf.math.is_finite(wide)
    return tf.where(regular, 1.0, _USUAL / tf.where(regular, 1.0, wide))


def matched(logits: tf.Tensor, model: tf.Tensor) -> tf.Tensor:
    """Returns `logits` [..., K], scaled to the spread of `model` [..., K] where they are of another order."""
    wide, aim = spread(logits), spread(model)
    ratio = aim / tf.where(wide > 0, wide, 1.0)
    regular = ((ratio >= REGULAR[0]) & (ratio <= REGULAR[1])) | (wide == 0) | (aim == 0)
    return logits * tf.stop_gradient(tf.where(regular, 1.0, ratio))


def cross_entropy(logits: tf.Tensor, y: tf.Tensor, targeted: bool = False) -> tf.Tensor:
    """Returns the cross-entropy of the labels; minus that when targeted."""
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
    return -loss if targeted else loss


def steady_cross_entropy(logits: tf.Tensor, y: tf.Tensor, targeted: bool = False) -> tf.Tensor:
    """Returns the cross-entropy with a gradient for confident models too.

    Where the label is so far ahead that float32 knows no gradient, that of the logits at a usual spread is taken,
    less a constant that ranks it below every other.
    """
    label, rival = label_and_rival(logits, y)
    certain = label - rival > _CERTAIN
    wide = tf.where(certain[:, None], spread(logits), _USUAL)
    loss = cross_entropy(logits * tf.stop_gradient(_USUAL / wide), y)
    loss = tf.where(certain, loss - _USUAL, loss)
    return -loss if targeted else loss


def untied(logits: tf.Tensor) -> tf.Tensor:
    """Returns `logits` with the first of several largest, the answer, ahead of the others by a rounding step.

    Otherwise a margin of zero looks reached although the answer is still the same.
    """
    answer = tf.one_hot(tf.argmax(logits, -1), logits.shape[-1], True, False, dtype=tf.bool)
    first = tf.reduce_max(logits, -1, keepdims=True)
    second = tf.reduce_max(tf.where(answer, -math.inf, logits), -1, keepdims=True)
    size = tf.reduce_max(tf.abs(logits), -1, keepdims=True)
    step = ROUNDING * tf.where(size > 0, size, 1.0)
    return logits + tf.stop_gradient(tf.where(answer & (first == second), step, 0.0))


def label_and_rival(logits: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the label's logit and the largest of the others, [B] each."""
    hot = tf.one_hot(y, logits.shape[-1], True, False, dtype=tf.bool)
    others = tf.where(hot, -math.inf, logits)
    # Of several that are equal the first: the mean of their slopes may be zero.
    rival = tf.one_hot(tf.argmax(others, -1), logits.shape[-1], True, False, dtype=tf.bool)
    return tuple(tf.reduce_sum(tf.where(chosen, logits, 0.0), -1) for chosen in (hot, rival))


def margin(logits: tf.Tensor, y: tf.Tensor, targeted: bool = False) -> tf.Tensor:
    """Returns by how much the best other class beats the label (negative: it does not; see `untied`)."""
    label, rival = label_and_rival(untied(logits), y)
    return label - rival if targeted else rival - label


def dlr(logits: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Returns the difference-of-logits ratio (Croce and Hein 2020, eq. 6): the margin over z1 - z3.

    Invariant to the logits' scale, so confidence cannot flatten it. Needs 3 classes; with 2, the margin.
    """
    top = tf.sort(logits, direction="DESCENDING")
    if logits.shape[-1] < 3:
        return margin(logits, y)
    return margin(logits, y) / _positive(top[:, 0] - top[:, 2], logits)


def targeted_dlr(logits: tf.Tensor, y: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Returns (z_target - z_y) / (z1 - (z3 + z4) / 2) (Croce and Hein 2020, eq. 7).

    With fewer than 4 classes there is no z4, and the difference is not scaled.
    """
    z_y, z_t = (tf.gather(logits, label, batch_dims=1) for label in (y, target))
    if logits.shape[-1] < 4:
        return z_t - z_y
    top = tf.sort(logits, direction="DESCENDING")
    return (z_t - z_y) / _positive(top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]), logits)


def _positive(difference, logits):
    """Returns `difference` [B], or the spread of the logits where it is zero, or 1 where that is zero too."""
    wide = tf.stop_gradient(spread(logits)[:, 0])
    return tf.where(difference > 0, difference, tf.where(wide > 0, wide, 1.0))
