"""The randomised solver draws each sample's tolerance anew, and EOT attacks it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfode_adv as ta
from tfode_adv.errors import UsageError


@keras.saving.register_keras_serializable(package="test_random_solver")
class Turn(keras.layers.Layer):
    """A nonlinear field whose solution depends visibly on the tolerance."""

    def call(self, t, h):
        return tf.sin(7.0 * h) - h * (1.0 + tf.cast(t, h.dtype))


@pytest.fixture(scope="module")
def base():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((3, 3, 1))
    h = ta.layers.ODEBlock(Turn(), solver="bosh3")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(h)))


@pytest.fixture(scope="module")
def images():
    return np.random.RandomState(0).uniform(size=(4, 3, 3, 1)).astype(np.float32)


def test_tolerances_fill_the_interval_and_go_on_from_call_to_call(base):
    model = ta.models.RandomSolver(base, low=1e-3, high=1.0, seed=3)
    draws = model.draw(2000).numpy()
    assert draws.min() >= 1e-3
    assert draws.max() <= 1.0
    np.testing.assert_allclose(np.log10(draws).mean(), -1.5, atol=0.1)
    assert not np.array_equal(draws, model.draw(2000))
    np.testing.assert_array_equal(draws, ta.models.RandomSolver(base, low=1e-3, high=1.0, seed=3).draw(2000))


def test_answers_vary_over_the_interval_only(base, images):
    loose = ta.models.RandomSolver(base, low=1e-4, high=2.0)
    answers = np.stack([loose(images) for _ in range(4)])
    assert np.ptp(answers, axis=0).max() > 1e-3
    fixed = ta.models.RandomSolver(base, low=1e-3, high=1e-3)
    ta.models.set_solver(base, tol=1e-3)
    np.testing.assert_allclose(fixed(images), base(images), atol=1e-5)


def test_a_transfer_follows_the_solver_that_its_source_is_set_to(images):
    """The compiled attack is kept between calls; the source's solver is not part of the attacked model."""

    def model(solver):
        keras.utils.set_random_seed(1)
        block = ta.layers.ODEBlock(Turn(), solver=solver)
        return keras.Sequential([keras.Input((3, 3, 1)), block, keras.layers.Flatten(), keras.layers.Dense(3)])

    def attack(source):
        attacked = ta.attacks.PGD(eps=0.5, steps=2, early_stop=False, source=ta.attacks.Transfer(source))
        return attacked(victim, images, labels).x_adv

    victim = keras.Sequential([keras.Input((3, 3, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    labels = np.zeros(len(images), np.int64)
    source = model("euler")
    before = attack(source)
    ta.models.set_solver(source, solver="midpoint")
    after = attack(source)
    assert not np.array_equal(before, after)
    np.testing.assert_allclose(after, attack(model("midpoint")), atol=1e-6)


def test_an_attack_follows_the_solver_that_a_plain_function_runs(images):
    block = ta.layers.ODEBlock(Turn(), solver="euler")
    model = keras.Sequential([keras.Input((3, 3, 1)), block, keras.layers.Flatten(), keras.layers.Dense(3)])
    labels = np.zeros(len(images), np.int64)

    def through(x):
        return model(2 * x - 1)

    def attacked():
        return ta.attacks.PGD(eps=0.5, steps=2, early_stop=False)(through, images, labels).x_adv

    before = attacked()
    ta.models.set_solver(model, solver="midpoint")
    assert not np.array_equal(before, attacked())


def test_an_image_is_given_up_only_if_the_model_errs_twice():
    """A randomised model's one mistake on a clean image is no attack's success."""
    calls = tf.Variable(0)

    def stumbles(x):
        right = tf.where(calls.assign_add(1) == 1, -1.0, 1.0) + 0.0 * tf.reduce_sum(x, [1, 2, 3])
        return tf.stack([right, -right], -1)

    x = np.full([3, 2, 2, 1], 0.5, np.float32)
    result = ta.attacks.PGD(eps=0.1, steps=2)(stumbles, x, np.zeros(3, np.int64))
    assert not result.success.any() and (result.gradients == 2).all()


def test_it_is_saved_and_attacked(base, images, tmp_path):
    model = ta.models.RandomSolver(base, low=1e-4, high=2.0, seed=5)
    model(images)
    model.save(tmp_path / "random.keras")
    loaded = keras.models.load_model(tmp_path / "random.keras")
    assert (loaded.low, loaded.high, loaded.seed) == (1e-4, 2.0, 5)
    labels = np.asarray(base(images)).argmax(-1)
    attack = ta.attacks.PGD(eps=0.5, steps=3, source=ta.attacks.EOT(4))
    result = attack(loaded, images, labels)
    assert result.success.any()
    assert (result.gradients % 4 == 0).all()


def test_a_tolerance_for_the_gradient_must_be_that_of_the_model_inside(base, images):
    """The drawn tolerance would take its place unseen."""
    model, labels = ta.models.RandomSolver(base, low=1e-4, high=2.0), np.zeros(len(images), np.int64)
    inside = keras.Sequential([keras.Input((3, 3, 1)), model])
    through = ta.attacks.Through(tol=1e-5)
    for source in (through, ta.attacks.EOT(2, through), ta.attacks.Transfer(model, through)):
        with pytest.raises(UsageError, match="1e-05.*twin="):
            ta.attacks.PGD(eps=0.1, source=source)(inside, images, labels)
    with pytest.raises(UsageError, match="twin="):
        ta.attacks.AutoAttack(eps=0.1, source=through)(model, images, labels)
    for fine in (ta.attacks.Through(tol=1e-5, twin=base), ta.attacks.Through("adjoint")):
        ta.attacks.PGD(eps=0.1, source=fine).accept(model, images)


def test_an_empty_interval_is_refused(base):
    for low, high in ((0.0, 1.0), (0.1, 0.01)):
        with pytest.raises(UsageError):
            ta.models.RandomSolver(base, low=low, high=high)
