"""Which class a targeted run goes for."""

import tensorflow as tf

from tfode_adv.attacks import losses


def nearest(batch) -> tf.Tensor:
    """Returns the target [B]: of the wrong classes, the one that restart 0, 1, ... finds most likely."""
    logits = batch.model(batch.x)
    rivals = logits - losses.FAR * tf.one_hot(batch.y, logits.shape[-1])
    order = tf.argsort(rivals, direction="DESCENDING", stable=True)
    return tf.gather(order, batch.restart, batch_dims=1)
