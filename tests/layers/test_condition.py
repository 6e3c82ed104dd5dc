"""ODEBlock with a condition: what the dynamics of each sample depends on beside its state."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfode_adv.errors import UsageError
from tfode_adv.layers import ODEBlock, record_starts, record_statistics

random = np.random.default_rng(0)
H0 = random.uniform(0.5, 1.5, (5, 3)).astype(np.float32)
# Rates so unlike that the samples take different numbers of steps.
RATES = np.geomspace(0.1, 10, 5, dtype=np.float32)[:, None]


def decay(t, h, condition):
    return -condition * h


@keras.saving.register_keras_serializable(package="tests")
class Pulled(keras.layers.Layer):
    """dh/dt = W c - h."""

    def __init__(self, units=3, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(units)

    def build(self, h_shape, condition_shape):
        self.dense.build(condition_shape)

    def call(self, h, condition):
        return self.dense(condition) - h


@pytest.mark.parametrize("options", [{"gradient": name} for name in ("backprop", "adjoint")] + [{"solver": "tfp"}])
def test_the_solution_and_its_gradients_are_those_in_closed_form(options):
    block = ODEBlock(decay, **({"solver": "dopri5", "tol": 1e-6} | options))
    h0, rates = tf.constant(H0), tf.constant(RATES)
    with tf.GradientTape() as tape:
        tape.watch([h0, rates])
        end = block(h0, condition=rates)
        total = tf.reduce_sum(end)
    of_state, of_rates = tape.gradient(total, [h0, rates])
    np.testing.assert_allclose(end, H0 * np.exp(-RATES), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(of_state, np.exp(-RATES) + 0 * H0, rtol=1e-3, atol=2e-5)
    np.testing.assert_allclose(of_rates, -(H0 * np.exp(-RATES)).sum(1, keepdims=True), rtol=1e-3, atol=2e-5)


def test_the_steps_own_derivative_reaches_the_condition():
    block = ODEBlock(decay, tol=1e-3, gradient="backprop_steps", first_step_size=0.01)

    def total(rates):
        return tf.reduce_sum(block(H0, condition=rates), axis=1)

    rates = tf.constant(RATES)
    with tf.GradientTape() as tape:
        tape.watch(rates)
        found = total(rates)
    slope = tape.gradient(found, rates)[:, 0]
    np.testing.assert_allclose(slope, (total(RATES * 1.01) - total(RATES * 0.99)) / (0.02 * RATES[:, 0]), rtol=0.02)


def test_each_sample_takes_the_steps_of_its_own_condition():
    block = ODEBlock(decay, tol=1e-4)
    with record_statistics() as together:
        end = block(H0, condition=RATES)
    steps = together[0][1].accepted.numpy()
    assert steps[-1] > steps[0]
    for i in range(len(H0)):
        with record_statistics() as alone:
            np.testing.assert_allclose(block(H0[i : i + 1], condition=RATES[i : i + 1])[0], end[i], rtol=1e-6)
        assert alone[0][1].accepted.numpy() == steps[i]


def test_a_network_may_say_the_condition_and_be_saved(tmp_path):
    keras.utils.set_random_seed(0)
    image = keras.Input((4,))
    features = keras.layers.Dense(2, name="features")(image)
    start = keras.ops.zeros_like(image[:, :3])
    model = keras.Model(image, ODEBlock(Pulled(), tol=1e-3, name="ode")(start, condition=features))
    x = random.normal(size=(8, 4)).astype(np.float32)
    before = [w.numpy() for w in model.trainable_weights]
    assert len(before) == 4
    model.compile("adam", "mse")
    model.fit(x, np.ones((8, 3)), verbose=0)
    assert all(np.any(w.numpy() != old) for w, old in zip(model.trainable_weights, before, strict=True))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    # h' = c - h from 0 ends in (1 - 1 / e) c.
    np.testing.assert_allclose(
        model(x), (1 - np.exp(-1)) * model.get_layer("ode").dynamics.dense(model.get_layer("features")(x)), atol=1e-3
    )


def test_a_condition_of_several_parts_and_one_list_of_inputs():
    parts = {"rate": RATES, "offset": np.ones_like(H0)}
    end = ODEBlock(lambda t, h, c: c["offset"] - c["rate"] * h, solver="euler")(H0, condition=parts)
    np.testing.assert_allclose(end, H0 + 1 - RATES * H0, rtol=1e-5, atol=1e-5)
    t, h, c = keras.Input((1,)), keras.Input((3,)), keras.Input((1,))
    functional = keras.Model([t, h, c], keras.layers.Add()([keras.layers.Multiply()([h, c]), t]))
    np.testing.assert_allclose(ODEBlock(functional, solver="euler")(H0, condition=RATES), H0 * (1 + RATES), rtol=1e-5)


def test_all_questions_of_a_block_take_the_condition():
    block = ODEBlock(decay, tol=1e-6)
    with record_starts() as starts:
        end = block(H0, condition=RATES / 5)
    np.testing.assert_array_equal(starts[0].condition, RATES / 5)
    np.testing.assert_allclose(block.inverse(end, condition=RATES / 5), H0, rtol=1e-3)
    halfway = block.trajectory(H0, [0.5], condition=RATES / 5)[0]
    np.testing.assert_allclose(halfway, H0 * np.exp(-RATES / 10), rtol=1e-4)
    np.testing.assert_allclose(block.slope(0.0, H0, condition=RATES), -RATES * H0, rtol=1e-6)


@pytest.mark.parametrize(
    ("dynamics", "condition", "words"),
    [
        (decay, None, "needs a condition: call the block as"),
        (lambda t, h: h, RATES, "takes no condition: it must be f"),
        (lambda h: h, RATES, "takes no condition"),
    ],
)
def test_a_dynamics_and_a_call_that_do_not_fit_are_one_clear_line(dynamics, condition, words):
    with pytest.raises(UsageError, match=words):
        ODEBlock(dynamics)(H0, condition=condition)
