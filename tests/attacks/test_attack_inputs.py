"""Mistakes get one line before anything runs; nothing ever returned is NaN or outside the ball."""

import dataclasses
import importlib.util

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tfode_adv import attacks
from tfode_adv.attacks import norms, random_streams
from tfode_adv.errors import RunError, UsageError


@pytest.mark.parametrize(
    ("name", "hyperparameters", "words"),
    [
        ("pdg", {"eps": 0.1}, ["pdg", "pgd", "autoattack"]),
        ("pgd", {}, ["eps"]),
        ("pgd", {"eps": -0.1}, ["eps", "-0.1"]),
        ("pgd", {"eps": float("nan")}, ["eps", "nan"]),
        ("pgd", {"eps": "much"}, ["eps", "much"]),
        ("pgd", {"eps": 0.1, "norm": "l1"}, ["l1", "linf", "l2rms"]),
        ("pgd", {"eps": 0.1, "steps": 2.5}, ["steps", "2.5"]),
        ("pgd", {"eps": 0.1, "step_size": 0}, ["step_size", "0"]),
        ("pgd", {"eps": 0.1, "stepsize": 0.1}, ["stepsize", "step_size"]),
        ("pgd", {"eps": 0.1, "source": "adjoint"}, ["source", "adjoint"]),
        ("bim", {"eps": 0.1, "random_start": True}, ["random_start"]),
        ("cw", {"norm": "linf"}, ["linf", "l2"]),
        ("spsa", {"eps": 0.1, "samples": 7}, ["samples", "7"]),
        ("apgd", {"eps": 0.1, "loss": "mse"}, ["mse", "dlr"]),
        ("pgd", {"eps": 0.1, "batch_size": 0}, ["batch_size", "0"]),
        ("pgd", {"eps": 0.1, "early_stop": "no"}, ["early_stop", "no"]),
        ("pgd", {"eps": 0.1, "restarts": 5}, ["restarts", "random_start"]),
        ("fgsm", {"eps": 0.1, "steps": 3}, ["steps"]),
        ("apgd_t", {"eps": 0.1, "loss": "ce"}, ["loss"]),
    ],
)
def test_wrong_hyperparameters_are_named_at_construction(name, hyperparameters, words):
    with pytest.raises(UsageError) as error:
        attacks.get(name, **hyperparameters)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (lambda: attacks.Through(tol=0.0), ["gradient_tol", "0.0"]),
        (lambda: attacks.Through(num_steps=0), ["gradient_num_steps", "0"]),
        (lambda: attacks.Through(num_steps=2.5), ["gradient_num_steps", "2.5"]),
        (lambda: attacks.Through(gradient="typo"), ["typo", "adjoint"]),
        (lambda: attacks.Through(solver="typo"), ["typo", "dopri5"]),
        (lambda: attacks.EOT(0), ["eot", "0"]),
        (lambda: attacks.EOT(2.5), ["eot", "2.5"]),
        (lambda: attacks.EOT(4, "adjoint"), ["EOT", "adjoint", "Through"]),
        (lambda: attacks.Transfer(None, "adjoint"), ["Transfer", "adjoint"]),
    ],
)
def test_sources_check_themselves(source, words):
    with pytest.raises(UsageError, match="^[^\n]*$") as error:
        source()
    assert all(word in str(error.value) for word in words)


ATTACK = attacks.PGD(eps=0.1, steps=2)


def _set(x, value):
    x = x.copy()
    x[1, 2, 3, 0] = value
    return x


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y: (_set(x, np.nan), y), "image 1"),
        (lambda x, y: (_set(x, 1.5), y), "1.5"),
        (lambda x, y: (_set(x, -0.2), y), "-0.2"),
        (lambda x, y: ((x * 255).astype(np.uint8), y), "stay in"),
        (lambda x, y: (x, y[:2]), "(3,)"),
        (lambda x, y: (x, y + 0.5), "integers"),
        (lambda x, y: (x, y + 2), "0 .. 1"),
        (lambda x, y: (x, y - 1), "-1"),
        (lambda x, y: (x, y + 2**32), str(2**32)),
    ],
)
def test_wrong_images_and_labels_are_named(linear, change, words):
    with pytest.raises(UsageError, match="^[^\n]*$") as error:
        ATTACK(linear, *change(linear.x, linear.y))
    assert words in str(error.value)


def test_decisions_are_no_probabilities(linear):
    result = ATTACK(lambda x: tf.one_hot(tf.argmax(linear(x), -1), 2), linear.x, linear.y)
    assert not result.success.any()


def test_models_that_return_no_logits_are_named(linear):
    with pytest.raises(UsageError, match="probabilities"):
        ATTACK(lambda x: tf.nn.softmax(linear(x)), linear.x, linear.y)
    with pytest.raises(UsageError, match="shape"):
        ATTACK(lambda x: linear(x)[:, 0], linear.x, linear.y)
    with pytest.raises(RunError, match="image 0"):
        ATTACK(lambda x: linear(x) * np.nan, linear.x, linear.y)


@pytest.mark.parametrize("attack", [attacks.Square(eps=0.1), attacks.AutoAttack(eps=0.1)])
def test_images_that_are_no_maps_are_refused_before_any_work(attack):
    def never(x):
        pytest.fail("the model was asked")

    with pytest.raises(UsageError, match="shape \\(3, 8\\), but square takes"):
        attack(never, np.full((3, 8), 0.5, np.float32), np.zeros(3, np.int64))


def test_no_images_no_result(linear):
    result = ATTACK(linear, linear.x[:0], linear.y[:0])
    assert result.x_adv.shape == (0, 6, 6, 1)
    assert all(len(part) == 0 for part in (result.success, result.distance, result.queries, result.gradients))


@pytest.mark.parametrize("name", ["pgd", "mim", "apgd", "square", "spsa", "fab", "cwlinf"])
def test_eps_zero_changes_nothing(linear, name):
    small = {"spsa": {"samples": 2}, "square": {}}.get(name, {})
    result = attacks.get(name, eps=0.0, steps=2, **small)(linear, linear.x, linear.y)
    np.testing.assert_array_equal(result.x_adv, linear.x)
    assert not result.success.any()


def test_a_model_that_breaks_down_never_counts_as_fooled():
    """Off the clean image this one answers NaN, and its gradients are NaN too."""

    def model(x):
        moved = tf.reduce_max(tf.abs(x - 0.5), axis=[1, 2, 3])
        score = tf.reduce_sum(x, axis=[1, 2, 3])
        return tf.stack([0.0 * score, -score], -1) / tf.cast(moved < 0.01, tf.float32)[:, None] ** 2

    def broken(x):
        logits = model(x)
        return tf.where(tf.math.is_finite(logits), logits, np.nan)

    x, y = np.full((2, 4, 4, 1), 0.5, np.float32), np.zeros(2, np.int64)
    for name in ("pgd", "apgd", "spsa", "square", "fab", "cwlinf"):
        extra = {"samples": 2} if name == "spsa" else {}
        result = attacks.get(name, eps=0.2, steps=3, **extra)(broken, x, y)
        assert np.isfinite(result.x_adv).all()
        assert not result.success.any()


@pytest.mark.parametrize("name", ["pgd", "apgd", "spsa"])
def test_without_a_step_a_random_start_is_judged(linear, name):
    extra = {"pgd": {"random_start": True}}.get(name, {})
    x, y = np.repeat(linear.x, 10, 0), np.repeat(linear.y, 10)
    result = attacks.get(name, eps=0.5, steps=0, **extra)(linear, x, y)
    np.testing.assert_array_equal(result.success, linear(result.x_adv).numpy().argmax(-1) == 1)
    assert 0 < result.success.sum() < 30
    assert (result.distance > 0).all()
    assert (result.gradients == 0).all()


@dataclasses.dataclass
class Scaled:
    """A callable without a hash, and equal to others that answer otherwise."""

    linear: object = dataclasses.field(compare=False)
    factor: float = dataclasses.field(compare=False)
    traces: list = dataclasses.field(default_factory=list, compare=False)

    def __call__(self, x):
        self.traces.append(x)
        return self.factor * self.linear(x)


def test_a_callable_without_a_hash_is_known_by_its_identity(linear):
    attack = attacks.PGD(eps=2 * linear.distance("linf"), steps=3)
    resists, yields = Scaled(linear, 0.0), Scaled(linear, 1.0)
    assert not attack(resists, linear.x, linear.y).success.any()
    assert attack(yields, linear.x, linear.y).success.all()
    traces = len(yields.traces)
    attack(yields, linear.x, linear.y)
    assert len(yields.traces) == traces
    for source in (attacks.Transfer, lambda model: attacks.EOT(2, attacks.Through(twin=model))):
        for model, expected in ((resists, False), (yields, True)):
            attack = attacks.PGD(eps=2 * linear.distance("linf"), steps=3, source=source(model))
            assert (attack(linear, linear.x, linear.y).success == expected).all()


@pytest.mark.parametrize("name", ["square", "spsa", "pgd", "fab", "cwlinf"])
def test_a_black_box_need_not_tell_its_shape(linear, name):
    """`tf.numpy_function` returns a tensor of unknown shape; gradients come from a twin."""

    def box(x):
        return tf.numpy_function(lambda images: linear(images).numpy(), [x], tf.float32)

    extra = {"steps": 200} if name == "square" else {"steps": 15}
    if name not in ("square", "spsa"):
        extra["source"] = attacks.Through(twin=linear)
    result = attacks.get(name, eps=3 * linear.distance("linf"), **extra)(box, linear.x, linear.y)
    assert result.success.all()


def test_random_starts_in_the_euclidean_ball_are_uniform():
    """In the plane: of the squared length the mean is half, and it tells nothing of the direction."""
    key = random_streams.fold(0, tf.range(4000))
    delta = norms.random_delta(key, tf.zeros([4000, 2]), "l2", 1.0).numpy()
    square = (delta**2).sum(-1)
    assert abs(square.mean() - 0.5) < 0.02
    share = delta[:, 0] ** 2 / square
    assert abs(np.corrcoef(square, share)[0, 1]) < 0.05


NAMES = ["pgd", "bim", "mim", "apgd", "apgd_t", "fab", "square", "spsa", "cw", "cwlinf"]
NAMES += ["deepfool"] if importlib.util.find_spec("foolbox") else []
SHAPES = ((4, 4, 1), (5, 3, 2))


@hypothesis.given(
    name=st.sampled_from(NAMES),
    shape=st.sampled_from(SHAPES),
    norm=st.sampled_from(["linf", "l2", "l2rms"]),
    eps=st.floats(0, 3),
    seed=st.integers(0, 3),
)
def test_results_stay_finite_in_the_box_and_in_the_ball(name, shape, norm, eps, seed):
    hypothesis.assume(norm in attacks.available()[name].norms)
    generator = np.random.RandomState(seed)
    x = generator.choice([0.0, 0.2, 1.0], size=(3, *shape)).astype(np.float32)
    y = generator.randint(0, 3, size=3)
    extra = {"pgd": {"random_start": True}, "spsa": {"samples": 2}, "fab": {"targets": 2}}.get(name, {})
    attack = attacks.get(name, norm=norm, eps=eps, seed=seed, steps=3, **extra)
    result = attack(THREE_CLASSES[shape], x, y)
    assert np.isfinite(result.x_adv).all()
    assert result.x_adv.min() >= 0
    assert result.x_adv.max() <= 1
    delta = (result.x_adv - x).reshape(3, -1)
    if norm == "linf":
        length = np.abs(delta).max(-1)
    else:
        length = np.linalg.norm(delta, axis=-1) / (np.sqrt(delta.shape[1]) if norm == "l2rms" else 1)
    assert (length <= eps * (1 + 1e-4) + 1e-5).all()
    np.testing.assert_allclose(result.distance, length, atol=1e-5)
    answers = THREE_CLASSES[shape](tf.constant(result.x_adv)).numpy().argmax(-1)
    np.testing.assert_array_equal(result.success, answers != y)


def _three_classes(shape):
    weights = tf.constant(np.random.RandomState(9).normal(size=(int(np.prod(shape)), 3)).astype(np.float32))
    return lambda x: tf.reshape(x, [-1, weights.shape[0]]) @ weights


THREE_CLASSES = {shape: _three_classes(shape) for shape in SHAPES}


def test_help_lists_every_attack_with_norms_and_defaults():
    text = attacks.describe()
    for name, description in attacks.available().items():
        assert f"{name}: {description.summary}" in text
        assert description.norms
    assert "eps=required" in text


def test_a_radius_that_nobody_published_gets_steps_that_fit_into_it():
    def step(eps, **options):
        return attacks.defaults.hyperparameters("pgd", "mnist", "linf", eps, **options)["step_size"]

    assert [step(eps) for eps in (None, 0.05, 0.1, 0.3)] == [0.05] * 4
    assert step(0.01) == pytest.approx(2.5 * 0.01 / 10)
    assert step(0.01, steps=50) == pytest.approx(2.5 * 0.01 / 50)
    assert step(0.9) == 0.05


def test_published_budgets_are_the_papers(shared):
    import json

    wifs = json.loads((shared / "published" / "wifs2019.json").read_text())["attack"]
    msml = json.loads((shared / "published" / "msml2022.json").read_text())["attack"]
    mnist = attacks.defaults.hyperparameters("bim", "mnist_5k", "l2rms")
    assert mnist["step_size"] == wifs["step_size"]["mnist"]
    assert mnist["steps"] == wifs["iterations"]
    cifar = attacks.defaults.hyperparameters("pgd", "cifar10", "linf")
    assert (cifar["eps"], cifar["step_size"]) == (msml["linf"]["eps"], msml["linf"]["step_size"])
    assert attacks.defaults.hyperparameters("cw", "cifar10", "l2")["eps"] == msml["l2"]["eps"]
    for name, description in attacks.available().items():
        for norm in description.norms:
            attacks.get(name, **attacks.defaults.hyperparameters(name, "mnist", norm))
