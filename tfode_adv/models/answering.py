"""A model that says where it has no answer."""

import keras
import numpy as np
import tensorflow as tf

from tfode_adv.layers import record_statistics


class Answering(keras.layers.Layer):
    """A model whose logits are NaN for the images that a solve failed for: they have no answer to be judged.

    Where failures are not raised, a block hands on its last good state, whose logits look like any others. A layer,
    and no function, so that attacks see the blocks' settings.
    """

    def __init__(self, model: keras.layers.Layer):
        super().__init__(autocast=False)
        self.model = model
        # It has no weights of its own, and the model builds itself.
        self.built = True

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        with record_statistics() as records:
            logits = self.model(x, training=training)
        for _, statistics in records:
            logits = tf.where((statistics.status == 0)[:, None], logits, tf.constant(np.nan, logits.dtype))
        return logits
