import keras
import numpy as np
import pytest
import tensorflow as tf

from tfode_adv import layers
from tfode_adv.diagnosis import attack_table
from tfode_adv.diagnosis.probe import Probe, calls_of


def test_batches_do_not_change_the_answer(honest, toy):
    x, y = toy[0][:10], toy[1][:10]
    whole, parts = Probe(honest, batch_size=16), Probe(honest, batch_size=3)
    np.testing.assert_allclose(whole.logits(x), honest.predict(x, verbose=0), atol=1e-5)
    np.testing.assert_allclose(parts.logits(x), whole.logits(x), atol=1e-5)
    for one, other in zip(parts.gradient(x, y), whole.gradient(x, y), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_any_callable_will_do():
    probe = Probe(lambda x: tf.reduce_sum(x, axis=(1, 2, 3))[:, None] * tf.constant([1.0, -1.0]))
    x, y = np.ones((2, 2, 2, 1), np.float32), np.array([0, 1])
    loss, gradient = probe.gradient(x, y)
    np.testing.assert_allclose(loss, [np.log1p(np.exp(-8)), 8 + np.log1p(np.exp(-8))], rtol=1e-4)
    assert (gradient[1] > 0).all()
    assert probe.steps(x)[0].shape == (2, 0)


def test_a_failed_solve_is_no_class():
    probe = Probe(lambda x: tf.math.log(tf.reduce_sum(x, axis=(1, 2, 3)))[:, None] * tf.constant([0.0, 1.0, -1.0]))
    x = np.ones((3, 2, 2, 1), np.float32) * np.float32([2, -1, 0])[:, None, None, None]
    np.testing.assert_array_equal(probe.predict(x), [1, -1, -1])


def test_a_failed_solve_of_a_block_is_no_class(failing_probe):
    x = np.float32([[0.1, 0.2], [0.6, 0.2], [0.2, 0.1]]).reshape(3, 1, 2, 1)
    np.testing.assert_array_equal(failing_probe.predict(x), [1, -1, 0])
    logits = failing_probe.logits(x)
    np.testing.assert_allclose(logits[0], [0.1 - np.log(0.4), 0.2 - np.log(0.3)], rtol=1e-5)
    assert np.isnan(logits[1]).all()


def test_settings_reach_the_blocks(ode_probe, ode_images):
    x, _ = ode_images
    fine, _ = ode_probe.steps(x, tol=1e-5)
    coarse, failed = ode_probe.steps(x, tol=1.0)
    assert fine.shape == (24, 1) and (fine > coarse).all() and not failed.any()
    assert np.abs(ode_probe.logits(x, tol=1e-5) - ode_probe.logits(x, tol=1.0)).max() > 1e-4


def test_calls_are_seen_and_then_no_longer():
    inner = keras.layers.Dense(2)
    model = keras.Sequential([keras.Input((3,)), inner, keras.layers.ReLU()])
    call = inner.call
    with calls_of([inner]) as seen:
        model(np.ones((1, 3)))
    assert seen[0][0].shape == (1, 3) and seen[0][1].shape == (1, 2)
    assert "call" not in inner.__dict__ and inner.call == call
    with pytest.raises(RuntimeError), calls_of([inner]):
        raise RuntimeError
    assert "call" not in inner.__dict__


def test_questions_at_other_tolerances_and_attacks_share_one_program():
    """Tracing an adaptive solve takes seconds: the dynamics are called for the first gradient, and never again."""
    calls = []

    def dynamics(t, h):
        calls.append(t)
        return -h

    image = keras.Input((2, 2, 1))
    state = layers.ODEBlock(dynamics, solver="heun2", tol=1e-2)(keras.layers.Flatten()(image))
    probe = Probe(keras.Model(image, state))
    x, y = np.random.default_rng(0).uniform(size=(3, 2, 2, 1)).astype(np.float32), np.array([0, 1, 2])
    # exp(-1) of the pixels are the logits.
    slope = probe.margin_gradient(x, y, tol=1e-4, gradient="backprop").reshape(3, 4)
    np.testing.assert_allclose(slope[np.arange(3), y], -np.exp(-1), rtol=1e-3)
    np.testing.assert_allclose(slope.max(axis=1), np.exp(-1), rtol=1e-3)
    count = len(calls)
    probe.gradient(x, y, tol=0.1, gradient="backprop")
    probe.steps(x, tol=0.1)
    protocol = attack_table.Protocol("linf", 0.1, 0.05, steps=2, gradient="backprop")
    for kind in ("pgd", "mim", "apgd", "cwlinf"):
        row = attack_table.Row(kind, kind, {"steps": 2}, "backprop", frozenset({"steps"}))
        attack_table.run_row(row, probe, protocol, x, y, np.ones(3, bool), 0.1)
    assert len(calls) == count


def test_features_are_what_the_dense_layer_called_last_is_given():
    """Not the last that is listed: Keras lists those of nested models first."""
    image = keras.Input((2, 1, 1))
    first = keras.layers.Dense(2, kernel_initializer="identity")(keras.layers.Flatten()(image))
    inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3), keras.layers.Lambda(lambda h: 2 * h)])
    head = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    probe = Probe(keras.Model(image, head(inner(first))))
    x = np.random.default_rng(0).uniform(size=(4, 2, 1, 1)).astype(np.float32)
    (features,) = probe.around(lambda images: (probe.features(images),), {}, x)
    np.testing.assert_allclose(features, 2 * x.reshape(4, 2) @ inner.layers[0].get_weights()[0], rtol=1e-5)


def test_runs_are_averaged_of_a_model_that_draws_once_a_batch():
    """Random resizing does: eight copies of an image in one call would all meet the same draw."""

    def model(x):
        return tf.reshape(x, [-1, 4]) * tf.random.uniform([], 0.0, 2.0)

    probe = Probe(model)
    probe.random, probe.draws = True, 64
    tf.random.set_seed(0)
    x = np.random.default_rng(0).uniform(size=(3, 2, 2, 1)).astype(np.float32)
    # The mean of 64 factors with a standard deviation of 0.58: five of its own are 0.36.
    np.testing.assert_allclose(probe.logits(x), x.reshape(3, 4), rtol=0.36)
    slope = probe.margin_gradient(x, np.zeros(3, np.int64)).reshape(3, 4)
    np.testing.assert_allclose(slope[:, 0], -np.ones(3), rtol=0.36)
    with probe.single_runs():
        once = probe.logits(x) / x.reshape(3, 4)
        np.testing.assert_allclose(once, np.full((3, 4), once[0, 0]), rtol=1e-5)
        assert once[0, 0] != pytest.approx(1, abs=0.01)
    assert probe.draws == 64
