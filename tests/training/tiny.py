"""A classifier and data small enough to train in a blink, for the tests of the loop."""

import keras
import numpy as np
import tensorflow as tf

from tfode_adv.layers import ODEBlock
from tfode_adv.training import SGD, CrossEntropy, fit, schedules

IMAGES = np.random.default_rng(0).uniform(size=(52, 6, 6, 1)).astype(np.float32)
# Which third of the columns is brightest.
LABELS = IMAGES.reshape(52, 6, 3, 2).sum((1, 3)).argmax(-1).astype(np.int64)
BATCH = 8


def model(dropout: float = 0.5) -> keras.Model:
    """With batch statistics and dropout, whose state must survive too."""
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(4, 3, strides=2),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(3),
        ]
    )


def plain_model() -> keras.Model:
    """Without batch statistics and dropout: the gradient of a batch is the sum of its parts'."""
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(5, "tanh"), keras.layers.Dense(3)]
    )


class Dynamics(keras.layers.Layer):
    """dh/dt = tanh(h W), which needs more steps the larger `stiffness`."""

    def __init__(self, stiffness, **kwargs):
        super().__init__(**kwargs)
        self.stiffness, self.dense = stiffness, keras.layers.Dense(4, "tanh")

    def build(self, *shapes):
        self.dense.build((None, 4))

    def call(self, t, h):
        return self.stiffness * self.dense(h)


def ode_model(stiffness: float = 1.0, solver: str = "bosh3", **settings) -> keras.Model:
    """One ODE block between two dense layers. Fewer stages than dopri5's, recomputed, are quicker to trace."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((6, 6, 1))
    state = keras.layers.Dense(4)(keras.layers.Flatten()(inputs))
    block = ODEBlock(Dynamics(stiffness), solver=solver, checkpoint="steps", **settings)
    return keras.Model(inputs, keras.layers.Dense(3)(block(state)))


def batches(epoch: int, step: int):
    """Seven batches, the last one smaller, in an order of the epoch's own."""
    order = np.random.default_rng(epoch).permutation(len(LABELS))
    for start in range(step * BATCH, len(order), BATCH):
        chosen = order[start : start + BATCH]
        yield tf.constant(IMAGES[chosen]), tf.constant(LABELS[chosen])


def train(classifier, *, epochs=2, rate=0.1, loss=None, train=batches, validation=None, **options):
    """`training.fit` with a plain recipe; returns where it stands, and the lines it reported."""
    lines = []
    with (options.get("strategy") or tf.distribute.get_strategy()).scope():
        optimizer = options.pop("optimizer", None) or SGD(rate, momentum=0.9, l2=1e-3)
    end = fit(
        classifier,
        train,
        validation,
        epochs=epochs,
        loss=loss or CrossEntropy(),
        optimizer=optimizer,
        schedule=options.pop("schedule", None) or schedules.get("constant", rate, epochs),
        report=lines.append,
        **options,
    )
    return end, lines


def weights(classifier) -> np.ndarray:
    return np.concatenate([np.ravel(variable.numpy()) for variable in classifier.trainable_variables])
