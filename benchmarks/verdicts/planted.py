"""The planted models: half hide their gradients, each by another mechanism, half are honest."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfode_adv as ta
from benchmarks.verdicts import networks
from benchmarks.verdicts.networks import EPS, SHAPE, adversarially, convolutional, naturally, trained


class Apply(keras.layers.Layer):
    """A function as a layer."""

    def __init__(self, function: Callable, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, x):
        return self.function(x)


@dataclasses.dataclass
class Planted:
    """A model, its truth ("masked" or "honest"), a smooth twin for the independent attack, and the attack's size."""

    model: keras.Model
    truth: str
    twin: Callable | None = None
    norm: str = "linf"
    eps: float = EPS["linf"]
    random: bool = False
    classes: int = 10
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


MODELS: dict[str, Callable[[], Planted]] = {}


def planted(function):
    """Enters a planted model under its function's name."""
    MODELS[function.__name__] = function
    return function


def behind(front, network, after=None):
    """front, network, after in a row, as one Keras model."""
    image = keras.Input(SHAPE)
    logits = network(image if front is None else Apply(front)(image))
    return keras.Model(image, logits if after is None else Apply(after)(logits))


def masked(model, twin, **options):
    """A planted model that hides its gradients."""
    return Planted(model, "masked", twin, **options)


def honest(model, **options):
    """One that does not."""
    return Planted(model, "honest", **options)


def natural():
    return trained("natural", convolutional, naturally())


def robust():
    return trained("robust", convolutional, adversarially())


def robust_l2():
    return trained("robust_l2", convolutional, adversarially("l2", 1.0))


def rounded(x):
    return tf.round(x * 8) / 8


L2 = {"norm": "l2", "eps": EPS["l2"]}


# ---- masked: absent gradients
@planted
def quantiser():
    return masked(behind(rounded, natural()), natural())


@planted
def quantiser_l2():
    return masked(behind(rounded, natural()), natural(), **L2)


@planted
def quantised_robust():
    return masked(behind(rounded, robust()), robust())


@planted
def thermometer():
    levels = np.arange(1, 11, dtype=np.float32) / 11

    def code(x):
        return tf.cast(x > levels, tf.float32)

    network = trained("thermometer", lambda: convolutional(channels=10), naturally(code))
    return masked(behind(code, network), lambda z: network(tf.sigmoid(20 * (z - levels))))


@planted
def decision():
    return masked(behind(None, natural(), lambda z: tf.one_hot(tf.argmax(z, -1), 10)), natural())


@planted
def decision_inside():
    """The same in one layer: there is nothing to take out."""
    network = natural()
    image = keras.Input(SHAPE)
    return masked(keras.Model(image, Apply(lambda x: tf.one_hot(tf.argmax(network(x), -1), 10))(image)), network)


@planted
def stopped():
    return masked(behind(tf.stop_gradient, natural()), natural())


@planted
def not_finite():
    """sqrt(x^2): the derivative at a black pixel is not a number."""
    return masked(behind(lambda x: tf.sqrt(x * x), natural()), natural())


@planted
def binary_code():
    def coder(middle):
        layers = [keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(128, activation="relu")]
        layers += [keras.layers.Dense(64, activation="tanh"), middle, keras.layers.Dense(128, activation="relu")]
        return keras.Sequential([*layers, keras.layers.Dense(196, activation="sigmoid"), keras.layers.Reshape(SHAPE)])

    def train(network):
        x, _ = networks.images("train", networks.TRAINED_ON)
        network.compile(keras.optimizers.Adam(2e-3), "mse")
        network.fit(x, x, epochs=15, batch_size=64, verbose=0)

    soft = trained("coder", lambda: coder(Apply(lambda h: h + tf.stop_gradient(tf.sign(h) - h))), train)
    network = trained("decoded", convolutional, naturally(soft))
    hard = coder(Apply(tf.sign))
    hard.set_weights(soft.get_weights())
    image = keras.Input(SHAPE)
    return masked(keras.Model(image, network(hard(image))), lambda z: network(soft(z)))


# ---- masked: misleading gradients
@planted
def permuted():
    order = np.random.default_rng(0).permutation(196)

    @tf.custom_gradient
    def same(x):
        return tf.identity(x), lambda g: tf.reshape(tf.gather(tf.reshape(g, [-1, 196]), order, axis=1), tf.shape(g))

    return masked(behind(same, natural()), natural())


@planted
def permuted_l2():
    return dataclasses.replace(permuted(), **L2)


@planted
def detour():
    network, matrix = natural(), tf.constant(np.random.default_rng(0).normal(size=(196, 10)), tf.float32)

    def false(pair):
        other = tf.reshape(pair[1], [-1, 196]) @ matrix
        return tf.stop_gradient(pair[0] - other) + other

    image = keras.Input(SHAPE)
    return masked(keras.Model(image, Apply(false)([network(image), image])), network)


# ---- masked: shattered, exploding and vanishing gradients
def rippled(network):
    def front(x):
        return x + 0.02 * tf.sin(300 * x)

    return masked(behind(front, network), lambda z: network(z + tf.stop_gradient(front(z) - z)))


@planted
def ripple():
    return rippled(natural())


@planted
def ripple_robust():
    return rippled(robust())


@planted
def sharpened():
    """Many steps of smoothing towards black or white: the gradient vanishes and explodes."""

    def front(x):
        for _ in range(12):
            x = x * x * (3 - 2 * x)
        return x

    def once(x):
        return tf.sigmoid(12 * (x - 0.5))

    network = trained("sharpened", convolutional, naturally(front))
    return masked(behind(front, network), lambda z: network(once(z)), eps=0.2)


@planted
def steep():
    """Pixels through a steep sigmoid: those that lie a step away from its flank have no derivative."""

    def front(x, slope=120.0):
        return tf.sigmoid(slope * (x - 0.4))

    network = trained("steep", convolutional, naturally(front))
    return masked(behind(front, network), lambda z: network(front(z, 8.0)), eps=0.2)


@planted
def saturated():
    """Logits x 1000: the cross-entropy's gradient vanishes in float32."""
    return masked(behind(None, natural(), lambda z: 1000 * z), natural())


@planted
def underflow():
    """One layer computes at a gain of 3e35, taken back after it: the same outputs, and gradients below float32."""
    gain = np.float32(3e35)
    body = [keras.layers.Conv2D(16, 3, strides=2, activation="relu"), Apply(lambda h: h * gain)]
    body += [keras.layers.Conv2D(32, 3, activation="relu"), Apply(lambda h: h / gain), keras.layers.Flatten()]
    body += [keras.layers.Dense(64, activation="relu"), keras.layers.Dense(10)]
    network = keras.Sequential([keras.Input(SHAPE), *body])
    weights = natural().get_weights()
    network.set_weights([weight * gain if place == 3 else weight for place, weight in enumerate(weights)])
    return masked(network, natural())


# ---- masked: random gradients
@planted
def dithered():
    def front(x):
        return tf.floor(8 * x + tf.random.uniform(tf.shape(x))) / 8

    return masked(behind(front, natural()), natural(), random=True)


@planted
def shifted():
    """Each pass sees the image moved by up to three pixels, as random padding does (Xie et al. 2018)."""

    def front(x):
        return tf.roll(x, tf.random.uniform([2], -3, 4, tf.int32), [1, 2])

    def train(network):
        x, y = networks.images("train", networks.TRAINED_ON)
        rng = np.random.default_rng(0)
        moved = np.stack([np.roll(image, rng.integers(-3, 4, 2), (0, 1)) for image in np.concatenate([x] * 3)])
        network.compile(keras.optimizers.Adam(2e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        network.fit(moved, np.concatenate([y] * 3), epochs=6, batch_size=64, verbose=0)

    network = trained("shifted", convolutional, train)
    places = [(down, across) for down in range(-3, 4) for across in range(-3, 4)]

    def mean(z):
        return tf.add_n([network(tf.roll(z, place, [1, 2])) for place in places]) / len(places)

    return masked(behind(front, network), mean, random=True, eps=0.15)


# ---- masked: the solvers' own
class Convolved(keras.layers.Layer):
    """Convolution, tanh, convolution of a state of eight channels."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = (keras.layers.Conv2D(8, 3, padding="same") for _ in range(2))

    def build(self, t_shape=None, h_shape=None):
        self.first.build((None, None, None, 8))
        self.second.build((None, None, None, 8))
        self.built = True

    def call(self, t, h):
        return self.second(tf.tanh(self.first(h)))

    def compute_output_shape(self, t_shape=None, h_shape=None):
        return h_shape


class RoundedDynamics(Convolved):
    """That of a state rounded to quarters, with a straight-through gradient or none."""

    def __init__(self, through: bool, **kwargs):
        super().__init__(**kwargs)
        self.through = through

    def call(self, t, h):
        coarse = tf.round(4 * h) / 4
        return super().call(t, h + tf.stop_gradient(coarse - h) if self.through else coarse)


@planted
def rounded_dynamics():
    def build(through=True):
        return networks.flow(RoundedDynamics(through), solver="euler", num_steps=3)

    soft = trained("rounded_flow", build, naturally(epochs=8, rate=5e-3))
    hard = build(False)
    hard.set_weights(soft.get_weights())
    return masked(behind(rounded, hard), soft, eps=0.05)


class Turning(Convolved):
    """A field that turns each pair of channels six radians, and a small network beside it."""

    def call(self, t, h):
        one, other = tf.split(h, 2, -1)
        return super().call(t, h) + 6.0 * tf.concat([-other, one], -1)


@planted
def turning_adjoint():
    """Attacked as published through the adjoint, which at a coarse tolerance does not find the way back."""

    def build():
        block = ta.layers.ODEBlock(Turning(), tol=0.1)
        head = [keras.layers.Flatten(), keras.layers.Dense(10)]
        return keras.Sequential([keras.Input(SHAPE), keras.layers.Conv2D(8, 4, strides=2), block, *head])

    network = trained("turning", build, naturally(epochs=3, rate=3e-3))
    return masked(network, None, eps=0.06, options={"tols": [0.1], "gradient": "adjoint"})


def flowing():
    return trained("flow", lambda: networks.flow(tol=0.1), naturally(epochs=5, rate=3e-3))


@planted
def coarse_adjoint():
    """Attacked as published through the adjoint at a coarse tolerance, of a field that nothing was done to."""
    return masked(flowing(), None, eps=0.05, options={"tols": [1.0], "gradient": "adjoint"})


# ---- planted later, and diagnosed before anything was changed for them
@planted
def median_rounded():
    """Each pixel is the middle one of nine, rounded (feature squeezing, Xu et al. 2018)."""

    def middle(x):
        around = tf.stack([tf.roll(x, (down, across), (1, 2)) for down in (-1, 0, 1) for across in (-1, 0, 1)], -1)
        return tf.sort(around, -1)[..., 4]

    def front(x):
        return tf.round(middle(x) * 4) / 4

    network = trained("median", convolutional, naturally(front))
    return masked(behind(front, network), lambda z: network(middle(z)))


@planted
def compressed():
    """Blocks of seven by seven pixels, their cosine transform rounded, as JPEG does (Guo et al. 2018)."""
    at = np.arange(7)
    waves = np.cos(np.pi * (at[None] + 0.5) * at[:, None] / 7) * np.sqrt(2 / 7)
    waves[0] /= np.sqrt(2)
    table = tf.constant(waves, tf.float32)
    coarse = tf.constant(0.15 * (1 + at[:, None] + at[None]), tf.float32)

    def front(x):
        blocks = tf.reshape(x, [-1, 2, 7, 2, 7])
        inside = tf.einsum("fi,gj,naibj->nafbg", table, table, blocks)
        kept = tf.round(inside / coarse[:, None]) * coarse[:, None]
        return tf.reshape(tf.einsum("fi,gj,nafbg->naibj", table, table, kept), [-1, *SHAPE])

    network = trained("compressed", convolutional, naturally(front))
    return masked(behind(front, network), lambda z: network(z + tf.stop_gradient(front(z) - z)))


@planted
def winners():
    """Only the tenth of a layer's units that are largest pass (k-winners-take-all, Xiao et al. 2020)."""

    def largest(h):
        rows = tf.reshape(h, [tf.shape(h)[0], int(np.prod(h.shape[1:]))])
        least = tf.math.top_k(rows, max(1, rows.shape[-1] // 10)).values[:, -1:]
        return tf.reshape(tf.where(rows >= least, rows, 0.0), tf.shape(h))

    def build():
        body = [keras.Input(SHAPE), keras.layers.Conv2D(16, 3, strides=2), Apply(largest), keras.layers.Conv2D(32, 3)]
        body += [Apply(largest), keras.layers.Flatten(), keras.layers.Dense(64), Apply(largest)]
        return keras.Sequential([*body, keras.layers.Dense(10)])

    network = trained("winners", build, naturally())

    def mean(z):
        rng = np.random.default_rng(0)
        moves = [tf.constant(rng.normal(0, 0.05, (1, *SHAPE)), tf.float32) for _ in range(24)]
        return tf.add_n([network(z + move) for move in moves]) / len(moves)

    return masked(network, mean)


@planted
def coarse_probabilities():
    """Answers are the logarithms of probabilities rounded to tenths."""

    def rounded_off(z):
        return tf.math.log(tf.round(10 * tf.nn.softmax(z)) / 10 + 0.01)

    return masked(behind(None, natural(), rounded_off), natural())


@planted
def neighbours():
    """The votes of the nine nearest training images in a network's features (Papernot and McDaniel 2018)."""
    network = natural()
    features = keras.Model(network.inputs, network.layers[-2].output)
    x, y = networks.images("train", 1000)
    known = tf.math.l2_normalize(features(x), -1)
    votes = tf.one_hot(y, 10)

    def near(image):
        return tf.math.l2_normalize(features(image), -1) @ tf.transpose(known)

    def count(image):
        return tf.reduce_sum(tf.gather(votes, tf.math.top_k(near(image), 9).indices), 1)

    image = keras.Input(SHAPE)
    return masked(keras.Model(image, Apply(count)(image)), lambda z: tf.math.log(tf.nn.softmax(30 * near(z)) @ votes))


@planted
def resized():
    """Each pass sees the image smaller, at a random place (Xie et al. 2018)."""

    def placed(x, size, down, across):
        small = tf.image.resize(x, [size, size])
        around = [[0, 0], [down, 14 - size - down], [across, 14 - size - across], [0, 0]]
        return tf.reshape(tf.pad(small, around), [-1, *SHAPE])

    def front(x):
        size = tf.random.uniform([], 10, 15, tf.int32)
        down, across = tf.unstack(tf.random.uniform([2], 0, 15 - size, tf.int32))
        return placed(x, size, down, across)

    def train(network):
        x, y = networks.images("train", networks.TRAINED_ON)
        tf.random.set_seed(0)
        moved = np.concatenate([np.asarray(front(x[i : i + 25])) for _ in range(3) for i in range(0, len(x), 25)])
        network.compile(keras.optimizers.Adam(2e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        network.fit(moved, np.concatenate([y] * 3), epochs=6, batch_size=64, verbose=0)

    network = trained("resized", convolutional, train)
    rng = np.random.default_rng(0)
    places = [(size, *rng.integers(0, 15 - size, 2)) for size in rng.integers(10, 15, 32)]

    def mean(z):
        return tf.add_n([network(placed(z, *(int(one) for one in place))) for place in places]) / len(places)

    return masked(behind(front, network), mean, random=True)


@planted
def pruned():
    """Units are kept by chance in proportion to their size, and scaled up (Dhillon et al. 2018)."""
    network = natural()
    first, second = keras.Sequential(network.layers[:3]), keras.Sequential(network.layers[3:])

    def some(h):
        share = h / (tf.reduce_sum(h, -1, keepdims=True) + 1e-6)
        passed = 1 - (1 - share) ** 100
        kept = tf.random.uniform(tf.shape(h)) < passed
        return tf.where(kept, h / tf.maximum(passed, 1e-6), 0.0)

    image = keras.Input(SHAPE)
    middle = Apply(lambda h: tf.round(some(h) * 2) / 2)
    return masked(keras.Model(image, second(middle(first(image)))), network, random=True)


# ---- honest
@planted
def pgd_trained():
    return honest(robust())


@planted
def pgd_trained_l2():
    return honest(robust_l2(), **L2)


@planted
def trades():
    return honest(trained("trades", convolutional, adversarially(trades=3.0)))


@planted
def smooth_robust():
    return honest(trained("smooth", lambda: convolutional(activation="softplus"), adversarially()))


@planted
def linear_robust():
    return honest(trained("linear", networks.linear, adversarially(eps=0.05)), eps=0.04)


@planted
def certified_l2():
    def build():
        return convolutional(kernel_constraint=networks.Spectral())

    return honest(trained("certified", build, naturally(epochs=12, rate=3e-3, scale=8.0)), norm="l2", eps=0.4)


@planted
def two_classes():
    network = trained("two", lambda: convolutional(2), adversarially(classes=2))
    return honest(network, classes=2)


@planted
def constant():
    network = networks.linear()
    network.set_weights([np.zeros((196, 10), np.float32), np.eye(10, dtype=np.float32)[1]])
    return honest(network)


@planted
def hot():
    return honest(behind(None, robust(), lambda z: 15 * z))


@planted
def confident():
    return honest(behind(None, natural(), lambda z: 5 * z), eps=0.03)


@planted
def nested():
    """A model in a model, with another dense layer called first."""
    network = robust()
    image = keras.Input(SHAPE)
    flat = keras.layers.Dense(196, kernel_initializer="identity", name="first")(keras.layers.Flatten()(image))
    inner = keras.Model(image, network(keras.layers.Reshape(SHAPE)(flat)))
    return honest(behind(None, inner))


@planted
def cold():
    return honest(behind(None, robust(), lambda z: 0.05 * z))


@planted
def natural_falls():
    return honest(natural(), eps=0.25)


@planted
def natural_small():
    return honest(natural(), eps=0.03)


@planted
def logit_noise():
    return honest(behind(None, robust(), lambda z: z + 0.1 * tf.random.normal(tf.shape(z))), twin=robust(), random=True)


@planted
def input_noise():
    noisy = behind(lambda x: x + 0.02 * tf.random.normal(tf.shape(x)), robust())
    return honest(noisy, twin=robust(), random=True)


@planted
def square_root():
    def front(x):
        return tf.sqrt(x + 0.01)

    return honest(behind(front, trained("root", convolutional, naturally(front))), eps=0.03)


@planted
def straight_through():
    return honest(behind(lambda x: x + tf.stop_gradient(rounded(x) - x), robust()))


@planted
def fixed_steps():
    network = trained("rk4", lambda: networks.flow(solver="rk4", num_steps=3), naturally(epochs=5, rate=3e-3))
    return honest(network, eps=0.03)


@planted
def fixed_steps_robust():
    network = trained("robust_rk4", lambda: networks.flow(solver="rk4", num_steps=2), adversarially(eps=0.12))
    return honest(network, eps=0.08)


@planted
def adaptive():
    return honest(flowing(), eps=0.03, options={"tols": [0.01]})


@planted
def adaptive_robust():
    network = trained("robust_flow", lambda: networks.flow(tol=0.1), adversarially(eps=0.12))
    return honest(network, eps=0.08, options={"tols": [0.1]})


@planted
def mix_trades():
    """The first paper's MIX, 16 channels, TRADES."""

    def build():
        return ta.models.build("mix", input_shape=SHAPE, filters=16, tol=0.1, dropout=0.0)

    network = trained("mix_trades", build, adversarially(eps=0.08, trades=3.0))
    return honest(network, eps=0.05, options={"tols": [0.1]})


@planted
def random_tolerance():
    network = flowing()
    return honest(ta.models.RandomSolver(network, 1e-3, 1e-1), twin=network, eps=0.03, random=True)


@planted
def blurred():
    def front(x):
        return tf.nn.avg_pool2d(x, 3, 1, "SAME")

    return honest(behind(front, trained("blurred", convolutional, naturally(front))), eps=0.05)


@planted
def normalised():
    def build():
        body = [keras.Input(SHAPE), keras.layers.Conv2D(16, 3, strides=2), keras.layers.LayerNormalization()]
        body += [keras.layers.Activation("gelu"), keras.layers.Conv2D(32, 3), keras.layers.LayerNormalization()]
        body += [keras.layers.Activation("gelu"), keras.layers.MaxPooling2D(2), keras.layers.Flatten()]
        return keras.Sequential([*body, keras.layers.Dense(10)])

    return honest(trained("normalised", build, adversarially(eps=0.1)), eps=0.08)


@planted
def dropped():
    """One unit in twenty is dropped by chance, at a look too."""
    network = robust()
    first, second = keras.Sequential(network.layers[:4]), keras.Sequential(network.layers[4:])
    image = keras.Input(SHAPE)
    model = keras.Model(image, second(Apply(lambda h: tf.nn.dropout(h, 0.05))(first(image))))
    return honest(model, twin=network, random=True)
