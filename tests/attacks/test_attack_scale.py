"""What an attack finds does not depend on the scale of the logits, on their level, or on ties."""

import importlib.util

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tfode_adv import attacks
from tfode_adv.attacks import fab, losses, norms

SMALL = {
    "spsa": {"steps": 30, "samples": 16},
    "square": {"steps": 60},
    "rays": {"steps": 60},
    "apgd": {"steps": 20},
    "apgd_dlr": {"steps": 20},
    "apgd_t": {"steps": 20},
    "fab": {"steps": 8},
    "cw": {"steps": 60, "learning_rate": 0.02},
    "cwlinf": {"steps": 40},
    "autoattack": {"steps": 8, "queries_square": 20},
    "boundary": {"steps": 20},
    "hopskipjump": {"steps": 1},
}
FOOLBOX = ["deepfool", "boundary", "hopskipjump"] if importlib.util.find_spec("foolbox") else []
GRADIENT = ["fgsm", "bim", "pgd", "mim", "apgd", "apgd_dlr", "apgd_t", "fab", "cw", "cwlinf", "autoattack"]
NAMES = [*GRADIENT, "square", "rays", "spsa", *FOOLBOX]
IMAGES = np.random.RandomState(0).uniform(0.2, 0.8, (12, 5, 5, 1)).astype(np.float32)
WEIGHTS = np.random.RandomState(1).normal(size=(25, 4)).astype(np.float32)


class Scaled:
    """Four linear classes, their logits times a factor and raised by as many of a shift."""

    factor, shift = tf.Variable(1.0), tf.Variable(0.0)

    def __call__(self, x):
        return self.factor * (tf.reshape(x, [-1, 25]) @ WEIGHTS + self.shift)


MODEL = Scaled()
LABELS = (IMAGES.reshape(-1, 25) @ WEIGHTS).argmax(-1)
ATTACKS, FOUND = {}, {}


def success(name, factor=1.0, shift=0.0):
    if name not in ATTACKS:
        norm = attacks.available()[name].norms[0]
        eps = 0.12 if norm == "linf" else 2.0 if name == "boundary" else 0.5
        ATTACKS[name] = attacks.get(name, norm=norm, eps=eps, **SMALL.get(name, {}))
    MODEL.factor.assign(factor)
    MODEL.shift.assign(shift)
    return ATTACKS[name](MODEL, IMAGES, LABELS).success


@pytest.mark.filterwarnings("ignore::tfode_adv.attacks.AttackWarning")
@pytest.mark.parametrize("name", NAMES)
def test_the_logits_scale_and_level_change_nothing(name):
    expected = success(name)
    assert expected.any() and (name == "boundary" or not expected.all())
    levels = ((1e-20, 0.0), (1e-6, 3.0), (30.0, 0.0), (1e6, -50.0), (1e20, 0.0))
    # What asks for decisions alone is slow, and sees less of it.
    for factor, shift in levels[::2] if name in FOOLBOX[1:] else levels:
        found = success(name, factor, shift)
        assert (found != expected).sum() <= 1, (factor, shift, found, expected)


class Tied(Scaled):
    """Two classes that are equal on a grey image, where the first of them is the answer, and a third far behind."""

    def __call__(self, x):
        score = tf.reduce_sum(tf.reshape(x - 0.5, [-1, 25]) * WEIGHTS[:, 0], -1)
        return self.factor * tf.stack([tf.zeros_like(score), score, 0.0 * score - 4.0], -1)


TIED = Tied()


@pytest.mark.filterwarnings("ignore::tfode_adv.attacks.AttackWarning")
@pytest.mark.parametrize("name", NAMES)
def test_a_tie_is_a_hairs_breadth_from_the_boundary(name):
    attack = attacks.get(name, norm=attacks.available()[name].norms[0], eps=0.05, **SMALL.get(name, {}))
    for factor in (1e-20, 1.0, 1e20):
        TIED.factor.assign(factor)
        assert attack(TIED, np.full((2, 5, 5, 1), 0.5, np.float32), np.zeros(2, np.int64)).success.all(), factor


@pytest.mark.parametrize("name", [name for name in GRADIENT if name != "autoattack"] + FOOLBOX[:1])
def test_logits_in_bfloat16_are_often_equal(name):
    def model(x):
        return tf.cast(4.0 + MODEL(x), tf.bfloat16)

    MODEL.factor.assign(1.0)
    MODEL.shift.assign(0.0)
    labels = model(IMAGES).numpy().argmax(-1)
    norm = attacks.available()[name].norms[0]
    attack = attacks.get(name, norm=norm, eps=0.3 if norm == "linf" else 1.5, **SMALL.get(name, {}))
    assert attack(model, IMAGES, labels).success.sum() >= 11


@hypothesis.given(exponent=st.integers(-20, 30), kind=st.sampled_from(["linf", "l2"]))
@hypothesis.settings(max_examples=15)
def test_norms_neither_overflow_nor_vanish(exponent, kind):
    vector = tf.constant([[3.0, -4.0]]) * 10.0**exponent
    expected = [[0.6, -0.8]] if kind == "l2" else [[1.0, -1.0]]
    np.testing.assert_allclose(norms.steepest(vector, kind, 1.0), expected, rtol=1e-6)
    np.testing.assert_allclose(norms.length(vector, kind), [(5.0 if kind == "l2" else 4.0) * 10.0**exponent], rtol=1e-6)
    # The nearest point with 3 a - 4 b = 1 about the middle of a square: along the normal, or at equal paces.
    point = fab.to_hyperplane(tf.constant([[0.5, 0.5]]), vector, tf.constant([10.0**exponent]), kind)
    np.testing.assert_allclose(point, [[0.12, -0.16]] if kind == "l2" else [[1 / 7, -1 / 7]], rtol=1e-5)


@pytest.mark.parametrize("factor", [1e-20, 1.0, 1e20])
def test_margins_and_their_ratio_at_any_scale(factor):
    logits, y = tf.constant([[3.0, 1.0, -2.0, 0.0], [-3.0, -5.0, -9.0, -4.0]]) * factor, tf.constant([0, 1])
    np.testing.assert_allclose(losses.margin(logits, y) / factor, [-2.0, 2.0], rtol=1e-6)
    np.testing.assert_allclose(losses.dlr(logits, y), [-2 / 3, 1.0], rtol=1e-6)
    np.testing.assert_allclose(losses.targeted_dlr(logits, y, tf.constant([1, 0])), [-2 / 4, 2 / 4.0], rtol=1e-6)


@pytest.mark.parametrize("name", ["pgd", "cw"])
def test_a_source_of_another_scale_transfers_as_well(linear, name):
    norm = attacks.available()[name].norms[0]
    for factor in (1e-20, 1e20):
        for victim, other in ((1.0, factor), (factor, 1.0)):
            source = attacks.Transfer(lambda x, other=other: other * linear(x))
            eps = 1.1 * linear.distance(norm)
            attack = attacks.get(name, norm=norm, eps=eps, source=source, **SMALL.get(name, {}))
            assert attack(lambda x, victim=victim: victim * linear(x), linear.x, linear.y).success.all()


def test_a_source_with_other_classes_is_refused(linear):
    source = attacks.Transfer(lambda x: tf.pad(linear(x), [[0, 0], [0, 3]]))
    with pytest.raises(
        attacks.base.UsageError, match="^Transfer's model tells 5 classes apart, but the attacked one 2$"
    ):
        attacks.PGD(eps=0.1, source=source)(linear, linear.x, linear.y)


def test_a_source_that_returns_no_tensor_is_refused(linear):
    source = attacks.Transfer(lambda x: [linear(x)])
    with pytest.raises(attacks.base.UsageError, match="^the model returned a list of 1, but must return one tensor"):
        attacks.PGD(eps=0.1, source=source)(linear, linear.x, linear.y)
