"""Which class a targeted run goes for."""

import math

import tensorflow as tf

from tfode_adv.attacks.engine import Batch


def nearest(batch: Batch) -> tf.Tensor:
    """Returns the target [B]: of the wrong classes, the likeliest in restart 0, the next in restart 1, ...

    Taken from the clean pass: no query of its own, and no class twice where the model is randomised.
    """
    label = tf.one_hot(batch.y, batch.classes, True, False, dtype=tf.bool)
    rivals = tf.where(label, -math.inf, batch.clean)
    order = tf.argsort(rivals, direction="DESCENDING", stable=True)
    return tf.gather(order, batch.restart, batch_dims=1)
