"""The networks that the planted models are made of: small, trained once by seed, kept under the temporary folder."""

import pathlib
import tempfile
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

import tfode_adv as ta

FOLDER = pathlib.Path(tempfile.gettempdir(), "tfode-adv-verdicts")
SHAPE, IMAGES, TRAINED_ON = (14, 14, 1), 40, 3000
EPS = {"linf": 0.1, "l2": 0.8}
LAYERS = keras.layers


def images(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """MNIST at half its size [N, 14, 14, 1] in [0, 1], and labels [N]."""
    x, y = ta.data.arrays("mnist_5k", split, count)
    return x.reshape(-1, 14, 2, 14, 2, 1).mean((2, 4)).astype(np.float32), y.astype(np.int64)


def convolutional(classes: int = 10, channels: int = 1, activation: str = "relu", **options) -> keras.Sequential:
    """Two convolutions and two dense layers."""
    body = [LAYERS.Conv2D(16, 3, strides=2, activation=activation, **options)]
    body.append(LAYERS.Conv2D(32, 3, activation=activation, **options))
    body += [LAYERS.Flatten(), LAYERS.Dense(64, activation=activation, **options), LAYERS.Dense(classes, **options)]
    return keras.Sequential([keras.Input((*SHAPE[:2], channels)), *body])


def linear() -> keras.Sequential:
    """One dense layer."""
    return keras.Sequential([keras.Input(SHAPE), LAYERS.Flatten(), LAYERS.Dense(10)])


def flow(dynamics: keras.layers.Layer | None = None, **options) -> keras.Sequential:
    """A convolution, an ODE block and a dense layer."""
    block = ta.layers.ODEBlock(dynamics or ta.layers.ConvDynamics(8), **options)
    head = [LAYERS.Flatten(), LAYERS.Dense(10)]
    return keras.Sequential([keras.Input(SHAPE), LAYERS.Conv2D(8, 4, strides=2), block, *head])


class Spectral(keras.constraints.Constraint):
    """Keeps a kernel's matrix at a spectral norm of at most 1."""

    def __call__(self, w):
        matrix = tf.reshape(w, [-1, w.shape[-1]])
        vector = tf.ones([matrix.shape[1], 1])
        for _ in range(8):
            vector = tf.math.l2_normalize(tf.transpose(matrix) @ (matrix @ vector))
        return w / tf.maximum(1.0, tf.norm(matrix @ vector))


def trained(name: str, build: Callable[[], keras.Model], train: Callable[[keras.Model], None]) -> keras.Model:
    """The network `name`, trained once."""
    keras.utils.set_random_seed(0)
    network, path = build(), FOLDER / f"{name}.weights.h5"
    if path.exists():
        network.load_weights(path)
    else:
        train(network)
        FOLDER.mkdir(parents=True, exist_ok=True)
        network.save_weights(path)
    return network


def naturally(front: Callable | None = None, epochs: int = 6, rate: float = 2e-3, scale: float = 1.0) -> Callable:
    """Training on clean images, seen through `front`."""

    def train(network):
        x, y = images("train", TRAINED_ON)
        x = x if front is None else np.concatenate([np.asarray(front(x[i : i + 500])) for i in range(0, len(x), 500)])

        def loss(labels, logits):
            return keras.losses.sparse_categorical_crossentropy(labels, scale * logits, from_logits=True)

        network.compile(keras.optimizers.Adam(rate), loss)
        network.fit(x, y, epochs=epochs, batch_size=64, verbose=0)

    return train


def adversarially(norm: str = "linf", eps: float = 0.15, trades: float | None = None, classes: int = 10) -> Callable:
    """Madry et al. 2018, or with a weight TRADES (Zhang et al. 2019)."""

    def train(network):
        x, y = images("train", TRAINED_ON)
        y = y % classes
        optimizer, steps = keras.optimizers.Adam(2e-3), 4

        @tf.function(autograph=False)
        def step(images, labels, radius):
            clean = tf.nn.softmax(network(images)) if trades else tf.one_hot(labels, classes)

            def climb(z):
                return tf.nn.softmax_cross_entropy_with_logits(tf.stop_gradient(clean), network(z))

            start = images + radius * tf.random.uniform(tf.shape(images), -1, 1)
            moved = ta.attacks.ascent.projected_ascent(
                climb, images, norm=norm, eps=radius, step_size=2.5 * radius / steps, steps=steps, x_start=start
            )
            with tf.GradientTape() as tape:
                logits = network(images)
                natural = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
                wanted = tf.nn.softmax(logits) if trades else tf.one_hot(labels, classes)
                robust = tf.nn.softmax_cross_entropy_with_logits(wanted, network(moved))
                # TRADES pulls the two answers together, and neither to a certain one.
                robust -= tf.nn.softmax_cross_entropy_with_logits(wanted, logits) if trades else 0.0
                loss = tf.reduce_mean(natural + trades * robust if trades else robust)
            gradients = tape.gradient(loss, network.trainable_variables)
            optimizer.apply_gradients(zip(gradients, network.trainable_variables, strict=True))

        optimizer.build(network.trainable_variables)
        rng = np.random.default_rng(0)
        for epoch in range(8):
            order, radius = rng.permutation(len(x)), np.float32(eps * min(1, (epoch + 1) / 3))
            for first in range(0, len(x) - 63, 64):
                part = order[first : first + 64]
                step(tf.constant(x[part]), tf.constant(y[part]), tf.constant(radius))

    return train
