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

ROUNDS = 10
EPOCHS = 5
BISECTIONS = 5
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
        [x, *(_near(rng, x, norm, eps) for _ in range(copies)), *(_mixed(rng, x) for _ in range(copies))]
    )
    logits = ask(points)
    labels, scale = logits[: len(x)].argmax(-1), _scale(logits[: len(x)])
    student = _network(x.shape[1:], logits.shape[1], seed)
    fit, fool = _fitting(student), _fooling(student, norm)
    for number in range(ROUNDS):
        if number:
            # Every other time towards a class of chance, and sometimes further than an attack may go.
            chance = number % 2 == 0
            targets = (labels + rng.integers(1, logits.shape[1], len(x))) % logits.shape[1] if chance else labels
            radius = np.float32(eps * rng.choice([1.0, 1.0, 1.5, 2.0]))
            start = _near(rng, x, norm, radius)
            fooling = fool(*map(tf.constant, (x, labels, targets, start, radius))).numpy()
            more = np.concatenate([fooling, _near(rng, fooling, norm, eps / 4), *_bracketed(ask, x, fooling, labels)])
            points, logits = np.concatenate([points, more]), np.concatenate([logits, ask(more)])
        wanted = tf.nn.softmax(scale * np.nan_to_num(logits)).numpy()
        for _ in range(EPOCHS):
            order = rng.permutation(len(points))
            for first in range(0, len(order) - BATCH + 1 if len(order) > BATCH else 1, BATCH):
                part = order[first : first + BATCH]
                fit(tf.constant(points[part]), tf.constant(wanted[part]))
    return student


def _scale(logits: np.ndarray) -> float:
    """The factor by which a typical image's class leads by `LEAD`."""
    leads = np.ptp(np.sort(np.nan_to_num(logits))[:, -2:], axis=1)
    return LEAD / max(1e-6, float(np.median(leads)))


def _fitting(student: keras.Model) -> Callable:
    """A compiled step from images and wanted probabilities."""
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    optimizer.build(student.trainable_variables)

    @tf.function(autograph=False, reduce_retracing=True)
    def fit(images, wanted):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(wanted, student(images, training=True)))
        gradients = tape.gradient(loss, student.trainable_variables)
        optimizer.apply_gradients(zip(gradients, student.trainable_variables, strict=True))

    return fit


def _fooling(student: keras.Model, norm: str) -> Callable:
    """A compiled ascent that leads the student away from labels, or where the target is another class, towards it."""

    @tf.function(autograph=False, reduce_retracing=True)
    def fool(images, labels, targets, start, eps):
        def climb(z):
            logits = student(z, training=False)
            aimed = tf.gather(logits, targets, batch_dims=1) - tf.gather(logits, labels, batch_dims=1)
            return tf.where(targets == labels, losses.margin(logits, labels), aimed)

        return projected_ascent(climb, images, norm=norm, eps=eps, step_size=eps / 4, steps=10, x_start=start)

    return fool


def _bracketed(ask: Callable, x: np.ndarray, there: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """Points between each image and another, the last of them near where the model's answer changes, if it does."""
    low, high = np.zeros((len(x), 1, 1, 1)), np.ones((len(x), 1, 1, 1))
    points = []
    for _ in range(BISECTIONS):
        share = (low + high) / 2
        points.append((x + share * (there - x)).astype(np.float32))
        crossed = (ask(points[-1]).argmax(-1) != labels).reshape(share.shape)
        low, high = np.where(crossed, low, share), np.where(crossed, share, high)
    return [points[0], *points[-2:]]


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
