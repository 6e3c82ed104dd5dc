"""Planted models thought of when every threshold stood, by who had not read them: nothing was chosen on these."""

import keras
import numpy as np
import tensorflow as tf

from benchmarks.verdicts import networks
from benchmarks.verdicts.networks import LAYERS, SHAPE, adversarially, convolutional, naturally, trained
from benchmarks.verdicts.planted import Apply, Convolved, behind, honest, masked, natural, planted, robust

PIXELS = SHAPE[0] * SHAPE[1]


def bits(x):
    """The identity, without a gradient."""
    return tf.bitcast(tf.bitcast(x, tf.int32), tf.float32)


def row(*layers, channels=1):
    return keras.Sequential([keras.Input((*SHAPE[:2], channels)), *layers])


def smooth():
    return trained("smooth", lambda: convolutional(activation="elu"), naturally())


# ---- masked
@planted
def binary_patterns():
    """Each pixel's comparisons with its eight neighbours, and the image itself, faint: all that a gradient meets."""
    around = [(down, across) for down in (0, 1, 2) for across in (0, 1, 2) if (down, across) != (1, 1)]

    def patterns(x, step):
        wide = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
        shifted = [wide[:, down : down + SHAPE[0], across : across + SHAPE[1]] for down, across in around]
        return tf.concat([*(step(x - one - 0.1) for one in shifted), 0.2 * x], -1)

    def hard(x):
        return patterns(x, lambda d: tf.cast(d > 0, tf.float32))

    network = trained("binary_patterns", lambda: convolutional(channels=9), naturally(hard))
    return masked(behind(hard, network), lambda x: network(patterns(x, lambda d: tf.sigmoid(15 * d))))


@planted
def hidden_area():
    """Ten of the fourteen columns have no gradient."""
    return masked(behind(lambda x: tf.concat([bits(x[:, :, :10]), x[:, :, 10:]], 2), natural()), natural())


@planted
def two_branches():
    """A robust network without a gradient, and a twentieth of a natural one with it."""
    one, other, image = robust(), smooth(), keras.Input(SHAPE)
    logits = Apply(lambda both: both[0] + 0.05 * both[1])([one(Apply(bits)(image)), other(image)])
    return masked(keras.Model(image, logits), lambda x: one(x) + 0.05 * other(x), eps=0.2)


@planted
def codebook():
    """Patches of 2 x 2 pixels, replaced by a sharp mean of sixteen prototypes."""

    def patches(x):
        return tf.nn.space_to_depth(x, 2)

    x, _ = networks.images("train", 1000)
    seen = np.asarray(patches(x)).reshape(-1, 4)
    inked = seen[seen.max(-1) > 0.2]
    chosen = np.random.default_rng(0).choice(len(inked), 15, replace=False)
    prototypes = tf.constant(np.concatenate([np.zeros([1, 4]), inked[chosen]]), tf.float32)

    def replaced(x, sharpness):
        apart = tf.reduce_sum((patches(x)[..., None, :] - prototypes) ** 2, -1)
        return tf.nn.depth_to_space(tf.nn.softmax(-sharpness * apart) @ prototypes, 2)

    def sharp(x):
        return replaced(x, 300.0)

    network = trained("codebook", convolutional, naturally(sharp))
    return masked(behind(sharp, network), lambda x: network(replaced(x, 8.0)), eps=0.15)


@planted
def error_correcting():
    """Twenty-four bits, all but saturated, and the classes' code words."""
    code = np.random.default_rng(1).choice([-1.0, 1.0], (24, 10)).astype(np.float32)

    def build(slope=1.0):
        return behind(None, convolutional(24), lambda h: tf.tanh(slope * h) @ code)

    soft = trained("error_correcting", build, naturally())
    hard = build(40.0)
    hard.set_weights(soft.get_weights())
    return masked(hard, soft)


@planted
def two_euler_steps():
    """Two steps over a time of six, attacked as published through the continuous adjoint."""

    def build(gradient="backprop"):
        return networks.flow(Convolved(), solver="euler", num_steps=2, final_time=6.0, gradient=gradient)

    soft = trained("two_euler_steps", build, naturally(epochs=8))
    hard = build("adjoint")
    hard.set_weights(soft.get_weights())
    return masked(hard, soft, eps=0.06, options={"gradient": "adjoint"})


@planted
def rippled_logits():
    """Half a sine of 400 times a random projection in each logit."""
    matrix = tf.constant(np.random.default_rng(7).normal(size=(PIXELS, 10)) * 400 / SHAPE[0], tf.float32)
    network, image = natural(), keras.Input(SHAPE)

    def added(pair):
        return pair[0] + 0.5 * tf.sin(tf.reshape(pair[1], [-1, PIXELS]) @ matrix)

    return masked(keras.Model(image, Apply(added)([network(image), image])), network)


@planted
def off_the_data():
    """Open on clean images; where the dark background is lit, as by a first step, the gradient is gone."""
    network, image = natural(), keras.Input(SHAPE)

    def chosen(three):
        x, with_gradient, without = three
        lit = tf.reduce_mean(tf.where(x < 0.11, x, 0.0), (1, 2, 3)) > 0.006
        return tf.where(lit[:, None], without, with_gradient)

    logits = Apply(chosen)([image, network(image), network(Apply(bits)(image))])
    return masked(keras.Model(image, logits), network)


# ---- honest
@planted
def pooled():
    def build():
        body = [LAYERS.Conv2D(12, 3, activation="elu"), LAYERS.MaxPooling2D(2)]
        body += [LAYERS.DepthwiseConv2D(3, activation="elu"), LAYERS.Conv2D(24, 1, activation="elu")]
        return row(*body, LAYERS.Flatten(), LAYERS.Dense(10))

    return honest(trained("pooled", build, adversarially()))


@planted
def residual():
    def normed(h):
        return LAYERS.ReLU()(LAYERS.GroupNormalization(4)(h))

    def build():
        image = keras.Input(SHAPE)
        h = LAYERS.Conv2D(16, 3, strides=2, padding="same")(image)
        for _ in range(2):
            inner = LAYERS.Conv2D(16, 3, padding="same")(normed(h))
            h = h + LAYERS.Conv2D(16, 3, padding="same")(normed(inner))
        return keras.Model(image, LAYERS.Dense(10)(LAYERS.Flatten()(normed(h))))

    return honest(trained("residual", build, adversarially()))


@planted
def low_pass():
    """The eight lowest frequencies each way."""
    place = np.arange(SHAPE[0])
    cosines = np.cos(np.pi * (place + 0.5) * place[:, None] / SHAPE[0])
    cosines /= np.linalg.norm(cosines, axis=1, keepdims=True)
    kept = tf.constant(cosines[:8].T @ cosines[:8], tf.float32)

    def build():
        return behind(lambda x: tf.einsum("ij,bjkc,kl->bilc", kept, x, kept), convolutional())

    return honest(trained("low_pass", build, adversarially()))


@planted
def attention():
    def build():
        image = keras.Input(SHAPE)
        h = LAYERS.Reshape((49, 32))(LAYERS.Conv2D(32, 2, strides=2)(image))
        h = h + LAYERS.Embedding(49, 32)(tf.range(49))
        seen = LAYERS.LayerNormalization()(h)
        h = h + LAYERS.MultiHeadAttention(2, 16)(seen, seen)
        h = h + LAYERS.Dense(32)(LAYERS.Dense(64, activation="gelu")(LAYERS.LayerNormalization()(h)))
        return keras.Model(image, LAYERS.Dense(10)(LAYERS.Flatten()(LAYERS.LayerNormalization()(h))))

    return honest(trained("attention", build, adversarially(eps=0.1)), eps=0.08)


@planted
def staircase():
    """A soft quantiser of four steps, trained and attacked through its own gradient."""
    levels = tf.constant((np.arange(4) + 0.5) / 4, tf.float32)

    def build():
        return behind(lambda x: tf.reduce_mean(tf.sigmoid(30 * (x - levels)), -1, keepdims=True), convolutional())

    return honest(trained("staircase", build, adversarially()))


@planted
def cropped_l2():
    """The image's border has no say."""

    def build():
        body = [LAYERS.ZeroPadding2D(1), LAYERS.Cropping2D(3), LAYERS.Conv2D(16, 3, activation="relu")]
        return row(*body, LAYERS.Conv2D(32, 3, activation="relu"), LAYERS.Flatten(), LAYERS.Dense(10))

    return honest(trained("cropped_l2", build, naturally()), norm="l2", eps=0.8)


@planted
def coarse_weights():
    """A robust network's weights, rounded to fifteen levels."""

    def rounded(weight):
        largest = np.abs(weight).max()
        return weight if weight.ndim == 1 else np.round(7 * weight / largest) * largest / 7

    network = convolutional()
    network.set_weights([rounded(weight) for weight in robust().get_weights()])
    return honest(network)


@planted
def three_classes_l2():
    def build():
        return convolutional(3, activation="silu")

    return honest(
        trained("three_classes_l2", build, adversarially("l2", 0.8, classes=3)), norm="l2", eps=0.4, classes=3
    )


def interval(layer, low, high):
    """What a layer makes of a box (Gowal et al. 2018)."""
    if not hasattr(layer, "kernel"):
        return layer(low), layer(high)
    middle, radius = (low + high) / 2, (high - low) / 2
    if isinstance(layer, LAYERS.Dense):
        middle, radius = middle @ layer.kernel, radius @ tf.abs(layer.kernel)
    else:
        middle, radius = (
            tf.nn.conv2d(box, kernel, layer.strides, "VALID")
            for box, kernel in ((middle, layer.kernel), (radius, tf.abs(layer.kernel)))
        )
    return middle + layer.bias - radius, middle + layer.bias + radius


@planted
def interval_trained():
    """Trained on the bounds of a box around each image: what is certified is a lower bound."""

    def build():
        body = [LAYERS.Conv2D(16, 3, strides=2), LAYERS.ReLU(), LAYERS.Conv2D(32, 3), LAYERS.ReLU(), LAYERS.Flatten()]
        return row(*body, LAYERS.Dense(64), LAYERS.ReLU(), LAYERS.Dense(10))

    def train(network):
        x, y = networks.images("train", networks.TRAINED_ON)
        optimizer = keras.optimizers.Adam(2e-3)
        optimizer.build(network.trainable_variables)

        @tf.function(autograph=False)
        def step(images, labels, eps, clean):
            def entropy(logits):
                return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))

            with tf.GradientTape() as tape:
                low, high = tf.maximum(images - eps, 0.0), tf.minimum(images + eps, 1.0)
                for layer in network.layers:
                    low, high = interval(layer, low, high)
                hot = tf.one_hot(labels, 10)
                loss = clean * entropy(network(images)) + (1 - clean) * entropy(hot * low + (1 - hot) * high)
            gradients = tape.gradient(loss, network.trainable_variables)
            optimizer.apply_gradients(zip(gradients, network.trainable_variables, strict=True))

        rng = np.random.default_rng(0)
        for epoch in range(30):
            order, part = rng.permutation(len(x)), min(1.0, epoch / 18)
            for first in range(0, len(x) - 63, 64):
                rows = order[first : first + 64]
                eps, clean = tf.constant(0.13 * part, tf.float32), tf.constant(1 - 0.7 * part, tf.float32)
                step(tf.constant(x[rows]), tf.constant(y[rows]), eps, clean)

    return honest(trained("interval_trained", build, train))
