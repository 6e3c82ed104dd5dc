"""A smooth student of a model, quickly distilled around the images: its gradients are there, and transfer.

Papernot et al., "Practical Black-Box Attacks against Machine Learning", 2017: a network of one's own is fitted to the
model's answers at the images, near them and where it itself would be fooled, so that it learns the boundary that an
attack has to cross. Only answers are asked of the model.
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from tfode_adv.attacks import losses, norms
from tfode_adv.attacks.ascent import projected_ascent

ROUNDS = 4
EPOCHS = 6
BATCH = 128
LEARNING_RATE = 2e-3
# The student is taught probabilities at which a typical image leads by this much: a decision has no other scale.
LEAD = 4.0


def distil(
    ask: Callable[[np.ndarray], np.ndarray], x: np.ndarray, *, norm: str, eps: float, copies: int = 8, seed: int = 0
) -> keras.Model:
    """Fits a small convolutional network to a model's answers.

    Args:
        ask: from images [N, H, W, C] to the model's logits [N, K], in NumPy.
        x: the images whose neighbourhoods matter, [N, H, W, C] in [0, 1].
        norm, eps: the attack's ball, near which the student is taught.
        copies: points about each image in the first round.
        seed: where all random numbers start.

    Returns:
        The student, from images to K logits.
    """
    rng = np.random.default_rng(seed)
    points = np.concatenate(
        [x, *(_near(rng, x, norm, eps) for _ in range(copies)), *(_mixed(rng, x) for _ in range(4))]
    )
    logits = ask(points)
    scale = LEAD / max(1e-6, float(np.median(np.ptp(np.sort(np.nan_to_num(logits[: len(x)]))[:, -2:], axis=1))))
    student = _network(x.shape[1:], logits.shape[1], seed)
    optimizer = keras.optimizers.Adam(LEARNING_RATE)

    @tf.function(autograph=False, reduce_retracing=True)
    def fit(images, wanted):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(wanted, student(images, training=True)))
        gradients = tape.gradient(loss, student.trainable_variables)
        optimizer.apply_gradients(zip(gradients, student.trainable_variables, strict=True))

    @tf.function(autograph=False, reduce_retracing=True)
    def fool(images, labels, start):
        climb = lambda z: losses.margin(student(z, training=False), labels)  # noqa: E731
        return projected_ascent(climb, images, norm=norm, eps=eps, step_size=eps / 4, steps=10, x_start=start)

    optimizer.build(student.trainable_variables)
    for number in range(ROUNDS):
        wanted = tf.nn.softmax(scale * np.nan_to_num(logits)).numpy()
        for _ in range(EPOCHS):
            order = rng.permutation(len(points))
            for first in range(0, len(order) - BATCH + 1 if len(order) > BATCH else 1, BATCH):
                part = order[first : first + BATCH]
                fit(tf.constant(points[part]), tf.constant(wanted[part]))
        if number + 1 < ROUNDS:
            labels = ask(x).argmax(-1)
            fooling = [fool(tf.constant(x), tf.constant(labels), tf.constant(_near(rng, x, norm, eps))).numpy()]
            # Half way there too: the boundary lies between.
            fooling.append((x + 0.5 * (fooling[0] - x)).astype(np.float32))
            fooling.append(_near(rng, fooling[0], norm, eps / 4))
            points = np.concatenate([points, *fooling])
            logits = np.concatenate([logits, ask(np.concatenate(fooling))])
    return student


def _near(rng: np.random.Generator, x: np.ndarray, norm: str, eps: float) -> np.ndarray:
    """A random point of each image's ball, in patches of random size: white noise moves a network little."""
    coarse = rng.choice([1, 2, 4])
    height, width = -(-x.shape[1] // coarse), -(-x.shape[2] // coarse)
    signs = rng.choice([-1.0, 1.0], (len(x), height, width, x.shape[3]))
    signs = signs.repeat(coarse, 1).repeat(coarse, 2)[:, : x.shape[1], : x.shape[2]]
    radius = eps * norms.unit(norm, x.shape[1:])
    size = radius if norm == "linf" else radius / np.sqrt(np.prod(x.shape[1:]))
    return np.clip(x + size * rng.uniform(0.3, 1.0, (len(x), 1, 1, 1)) * signs, 0, 1).astype(np.float32)


def _mixed(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """A point between each image and another: where one class becomes the next."""
    share = rng.uniform(0.2, 0.6, (len(x), 1, 1, 1))
    return ((1 - share) * x + share * x[rng.permutation(len(x))]).astype(np.float32)


def _network(shape: tuple[int, ...], classes: int, seed: int) -> keras.Model:
    """Smooth, and small enough to be taught in seconds."""
    kernels = [keras.initializers.HeNormal(seed=seed + number) for number in range(4)]
    conv = {"activation": "softplus", "padding": "same"}
    body = [keras.Input(shape), keras.layers.Conv2D(16, 5, strides=2, kernel_initializer=kernels[0], **conv)]
    body.append(keras.layers.Conv2D(32, 3, strides=2, kernel_initializer=kernels[1], **conv))
    body += [keras.layers.Flatten(), keras.layers.Dense(96, activation="softplus", kernel_initializer=kernels[2])]
    return keras.Sequential([*body, keras.layers.Dense(classes, kernel_initializer=kernels[3])], name="student")
