"""Settings and statistics of the ODE blocks of any Keras model."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfode_adv as ta
from tfode_adv.errors import UsageError


@pytest.fixture(scope="module")
def nested():
    """A model within a model, with an ODE block of the user's own before it. Fewer stages than dopri5's are
    quicker to trace."""
    inner = ta.models.build("oon", input_shape=(6, 6, 4), filters=4, tol=0.1, solver="bosh3")
    inputs = keras.Input((6, 6, 4))
    own = ta.layers.ODEBlock(ta.layers.ConvDynamics(4), tol=0.1, solver="bosh3")
    return keras.Model(inputs, inner(own(inputs)))


@pytest.fixture(autouse=True)
def restore(nested):
    yield
    ta.models.set_solver(nested, tol=0.1, solver="bosh3", gradient="backprop")


def images(count=5):
    return np.random.default_rng(0).normal(size=(count, 6, 6, 4)).astype(np.float32)


def test_every_block_is_set_nested_ones_too(nested):
    assert ta.models.set_solver(nested, tol=0.5, gradient="adjoint") == 2
    for block in ta.models.ode_blocks(nested):
        assert block.tol == pytest.approx(0.5) and block.gradient == "adjoint" and block.solver == "bosh3"


def test_blocks_come_in_the_model_s_order_nested_ones_too():
    settings = {"input_shape": (8, 8, 2), "filters": 8, "blocks": (1, 1), "solver": "euler"}
    inner = ta.models.build("sonet", **settings)
    own = [block.name for block in ta.models.ode_blocks(inner)]
    assert own[0] == "stem" and own[-1] == "logits"
    inputs = keras.Input((8, 8, 2))
    for outer in (keras.Model(inputs, inner(inputs)), ta.models.RandomSolver(inner)):
        assert [block.name for block in ta.models.ode_blocks(outer)] == own


def test_a_bad_value_changes_nothing(nested):
    with pytest.raises(UsageError, match="'exact'"):
        ta.models.set_solver(nested, tol=0.5, gradient="exact")
    with pytest.raises(UsageError, match="tol is '0.1', but must be a number"):
        ta.models.set_solver(nested, gradient="adjoint", tol="0.1")
    assert all(block.gradient == "backprop" for block in ta.models.ode_blocks(nested))
    with pytest.raises(UsageError, match="'speed', but must be one of: tol"):
        ta.models.set_solver(nested, speed=3)
    assert all(block.tol == pytest.approx(0.1) for block in ta.models.ode_blocks(nested))


def test_bounds_of_steps_are_settings_like_any_other():
    """h' = h at a tolerance that would take it in one or two steps."""
    block = ta.layers.ODEBlock(lambda t, h: h, solver="heun2", tol=1.0)
    model, x = keras.Sequential([keras.Input((1,)), block]), np.ones([1, 1], np.float32)
    free = ta.models.solver_statistics(model, x).accepted
    with ta.layers.solver_settings(max_step=0.1):
        assert ta.models.solver_statistics(model, x).accepted == 10 > free
    assert ta.models.set_solver(model, max_step=0.05, min_step=0.01, endpoint="clip", tol=0.5) == 1
    assert ta.models.solver_statistics(model, x).accepted == 20
    assert block.settings.override(max_step=None, tol=1.0).max_step is None and block.max_step == 0.05
    with pytest.raises(UsageError, match="max_step is -1"), ta.layers.solver_settings(max_step=-1):
        pass


def test_predict_sees_new_settings(nested):
    x = images()
    ta.models.set_solver(nested, solver="midpoint", num_steps=1)
    before = nested.predict(x, verbose=0)
    ta.models.set_solver(nested, solver="euler")
    after = nested.predict(x, verbose=0)
    np.testing.assert_allclose(after, nested(x), atol=1e-5)
    assert not np.allclose(before, after, atol=1e-5)


def test_statistics_are_per_sample_and_do_not_depend_on_the_batch(nested):
    x = images() * np.array([0.1, 1, 1, 5, 1], np.float32).reshape(5, 1, 1, 1)
    ta.models.set_solver(nested, tol=1e-4)
    whole, parts = (ta.models.solver_statistics(nested, x, batch_size=n) for n in (5, 2))
    for a, b in zip(whole, parts, strict=True):
        assert a.shape == (5,)
        np.testing.assert_array_equal(a, b)
    # Two evaluations to begin with, three a step, for each of the two blocks.
    np.testing.assert_array_equal(whole.nfe, 4 + 3 * (whole.accepted + whole.rejected))
    ta.models.set_solver(nested, tol=1.0)
    assert (ta.models.solver_statistics(nested, x).nfe < whole.nfe).all()


def test_fixed_steps_are_counted(nested):
    ta.models.set_solver(nested, solver="midpoint", num_steps=2)
    assert ta.models.solver_statistics(nested, images(2)).nfe.tolist() == [8, 8]


def test_counts_follow_every_setting():
    """The compiled count is kept between calls; settings around a call, and those it was traced with, are not."""
    block = ta.layers.ODEBlock(lambda t, h: h * h, solver="heun2", tol=1e-3)
    model = keras.Sequential([keras.Input((1,)), block])
    x = np.full((2, 1), 0.3, np.float32)
    with ta.layers.solver_settings(tol=1.0):
        coarse = ta.models.solver_statistics(model, x).nfe
    assert (coarse < ta.models.solver_statistics(model, x).nfe).all()
    exploding = np.full((1, 1), 4.0, np.float32)
    with pytest.raises(tf.errors.InvalidArgumentError):
        ta.models.solver_statistics(model, exploding)
    block.on_failure = "status"
    assert ta.models.solver_statistics(model, exploding).nfe > 0


def test_no_ode_block_no_evaluations():
    inputs = keras.Input((6, 6, 4))
    model = keras.Model(inputs, keras.layers.Flatten()(inputs))
    assert ta.models.set_solver(model, tol=0.1) == 0
    assert ta.models.solver_statistics(model, images(3)).nfe.tolist() == [0, 0, 0]


def test_no_images_no_statistics(nested):
    assert ta.models.solver_statistics(nested, images(0)).nfe.shape == (0,)


def test_counting_does_not_keep_a_model_alive():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    ta.models.solver_statistics(model, np.zeros((1, 2)))
    reference = weakref.ref(model)
    del model, inputs
    tf.keras.backend.clear_session()
    gc.collect()
    assert reference() is None


def test_bad_batch_size(nested):
    with pytest.raises(UsageError, match="batch_size is 0"):
        ta.models.solver_statistics(nested, images(1), batch_size=0)
