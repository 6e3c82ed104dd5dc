"""Random numbers that belong to a sample, not to a batch.

A draw is a pure function of a key, so an image's numbers do not depend on which images share its
batch, nor on their order. A key is folded from whatever names the draw: seed, sample, restart, step.
Counter-based generation (Salmon et al. 2011) with the mixing function of SplitMix64 (Steele et al. 2014).
"""

import math
from collections.abc import Sequence

import tensorflow as tf

_GOLDEN = 0x9E3779B97F4A7C15


def _mix(z: tf.Tensor) -> tf.Tensor:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, tf.constant(shift, tf.uint64)))
        z = z * tf.constant(factor, tf.uint64)
    return tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, tf.constant(31, tf.uint64)))


def fold(key: tf.Tensor | int, *words: tf.Tensor | int) -> tf.Tensor:
    """Returns `key` mixed with integers (scalars or [B]), in order: another key, uint64."""
    key = tf.cast(key, tf.uint64)
    for word in words:
        key = _mix(key + (tf.cast(word, tf.uint64) + 1) * tf.constant(_GOLDEN, tf.uint64))
    return key


def bits(key: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """Returns [B, *shape] random 64-bit words, one stream for each of the keys [B]."""
    count = math.prod(shape)
    counter = tf.cast(tf.range(1, count + 1, dtype=tf.int64), tf.uint64)
    words = _mix(key[:, None] + counter[None, :] * tf.constant(_GOLDEN, tf.uint64))
    return tf.reshape(words, [-1, *shape])


def uniform(key: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """Returns float32 [B, *shape], uniform in [0, 1)."""
    top = tf.bitwise.right_shift(bits(key, shape), tf.constant(40, tf.uint64))
    return tf.cast(tf.cast(top, tf.int64), tf.float32) * 2.0**-24


def normal(key: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """Returns float32 [B, *shape], standard normal (Box and Muller 1958)."""
    radius = tf.sqrt(-2.0 * tf.math.log(1.0 - uniform(fold(key, 1), shape)))
    return radius * tf.cos(2.0 * math.pi * uniform(fold(key, 2), shape))


def signs(key: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """Returns float32 [B, *shape], -1 or 1 with equal chance."""
    return tf.where(uniform(key, shape) < 0.5, -1.0, 1.0)
