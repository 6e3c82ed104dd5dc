"""Models that answer by chance: luck neither ends an attack nor makes a success."""

import numpy as np
import pytest
import tensorflow as tf

from tfode_adv import attacks


class Coin:
    """The linear model, which near the grey image takes class 1 with probability `chance`, wherever it is."""

    def __init__(self, linear, chance):
        self._linear, self._chance = linear, chance

    def __call__(self, x):
        lucky = tf.random.uniform(tf.shape(x)[:1]) < self._chance
        return self._linear(x) + 2.0 * self._linear.margin * tf.cast(lucky, tf.float32)[:, None] * [0.0, 1.0]


@pytest.fixture
def crowd(linear):
    """60 times the linear model's grey image."""
    tf.random.set_seed(3)
    return np.repeat(linear.x[:1], 60, 0), np.zeros(60, np.int64)


TAKES_EVERY_STEP = {
    "pgd": {"step_size": 1e-3, "steps": 12},
    "mim": {"step_size": 1e-3, "steps": 12},
    "apgd": {"steps": 12},
    "fab": {"steps": 12, "targets": 1},
    "cwlinf": {"steps": 12},
}


@pytest.mark.parametrize("name", TAKES_EVERY_STEP)
def test_who_is_not_turned_has_taken_every_step(linear, crowd, name):
    """At half of the distance that turns it only luck does."""
    attack = attacks.get(name, eps=linear.distance("linf") / 2, **TAKES_EVERY_STEP[name])
    result = attack(Coin(linear, 0.4), *crowd)
    assert not result.success.all()
    assert (result.gradients[~result.success] == 12).all()
    assert result.success[result.gradients < 12].all()


@pytest.mark.parametrize(
    ("name", "norm", "hyperparameters"),
    [
        ("pgd", "linf", {"step_size": 0.01, "steps": 12}),
        ("apgd", "linf", {"steps": 12}),
        ("square", "linf", {"steps": 120}),
        ("spsa", "linf", {"steps": 30, "samples": 32, "delta": 0.05}),
        ("fab", "linf", {"steps": 12, "targets": 1}),
        ("cwlinf", "linf", {"steps": 20}),
        ("cw", "l2", {"steps": 40, "binary_search_steps": 4, "learning_rate": 0.03}),
    ],
)
def test_a_lucky_draw_on_the_way_does_not_save_the_image(linear, crowd, name, norm, hyperparameters):
    """A third of the draws deceive on this side of the boundary, none beyond; and beyond it all of them get."""
    attack = attacks.get(name, norm=norm, eps=3 * linear.distance(norm), **hyperparameters)
    assert attack(linear, *(part[:1] for part in crowd)).success.all()
    assert attack(Coin(linear, 1 / 3), *crowd).success.mean() > 0.8


def test_many_draws_do_not_turn_an_image_by_luck(linear, crowd):
    """Each of 100 steps errs with probability 0.3; at most 0.3 + 0.09 + 0.027 ... of the images may be turned."""
    attack = attacks.PGD(eps=0.0, step_size=0.1, steps=100)
    success = attack(Coin(linear, 0.3), *crowd).success.mean()
    assert 0.1 < success < 0.6


def test_a_resisting_model_is_asked_no_more_than_before(linear):
    """Where the model is not randomised, one pass verifies, and a sample done never comes back."""
    far = attacks.PGD(eps=2 * linear.distance("linf"), steps=10)(linear, linear.x, linear.y)
    assert far.success.all()
    assert (far.gradients < 10).all()
    assert (far.queries == far.gradients + 2).all()


def test_progress_counts_every_image_once(linear, crowd):
    finished = []
    attack = attacks.PGD(eps=linear.distance("linf") / 2, steps=8, batch_size=16)
    result = attack(Coin(linear, 0.3), *crowd, progress=finished.append)
    assert sum(finished) == (result.gradients > 0).sum()


@pytest.mark.parametrize("kind", ["transfer", "eot", "through"])
def test_eot_averages_what_its_source_gives(linear, kind):
    """Not the model's own gradient: the mean of the inner source's, as often as both say."""
    asked = []

    def twin(x):
        asked.append(x.shape[0])
        return -2.0 * linear(x)

    inner = {"transfer": attacks.Transfer(twin), "eot": attacks.EOT(3), "through": attacks.Through(twin=twin)}[kind]
    expected = inner.differentiate(linear, lambda z: z[:, 1], tf.constant(linear.x))
    asked.clear()
    source = attacks.EOT(2, inner)
    found = source.differentiate(linear, lambda z: z[:, 1], tf.constant(linear.x))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert set(asked) <= {len(linear.x)} and len(asked) == (0 if kind == "eot" else 2)
    assert source.draws == 2 * inner.draws
    sign = 1 if kind == "eot" else -2
    np.testing.assert_allclose(found[2][0], sign * linear.weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("compiled", [False, True])
def test_eot_averages_over_a_model_that_draws_once_a_batch(linear, compiled):
    """As random resizing is mostly written (Xie et al. 2018): copies of an image in one call meet the same draw."""

    def model(images):
        return linear(images) * tf.random.uniform([], 0.0, 2.0)

    def gradient():
        return attacks.EOT(64).differentiate(model, lambda z: z[:, 1], tf.constant(linear.x))[2]

    tf.random.set_seed(0)
    found = (tf.function(gradient) if compiled else gradient)()
    # The mean of 64 factors with a standard deviation of 0.58: five of its own are 0.36.
    np.testing.assert_allclose(found[0], linear.weights, rtol=0.36)
