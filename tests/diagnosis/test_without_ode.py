"""The network without its ODE blocks, as a source of gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfode_adv import layers
from tfode_adv.diagnosis import attack_table, detours, measurements
from tfode_adv.diagnosis.attack_table import BYPASS, Protocol
from tfode_adv.diagnosis.kept_pieces import KeptPieces
from tfode_adv.diagnosis.probe import Probe
from tfode_adv.diagnosis.without_ode import bypass


def test_a_block_left_out_hands_on_its_state_and_is_there_again_afterwards(ode_probe, ode_images):
    model, x = ode_probe.original, tf.constant(ode_images[0][:4])
    before = model(x)
    without = bypass(model)(x)
    flatten, stem, _, head = model.layers[1:]
    np.testing.assert_allclose(without, head(stem(flatten(x))), rtol=1e-6)
    assert not np.allclose(without, before)
    np.testing.assert_array_equal(model(x), before)


def test_the_block_is_there_again_after_an_error(ode_probe):
    wrong = tf.zeros([2, 5, 5, 1])
    with pytest.raises(ValueError):
        bypass(ode_probe.original)(wrong)
    (block,) = ode_probe.blocks
    assert "call" not in block.__dict__


def test_several_states_are_handed_on_together():
    image = keras.Input((3,))
    first, second = layers.ODEBlock(lambda t, h: (-h[1], h[0]), name="turn")((image, 2 * image))
    model = keras.Model(image, first + second)
    x = tf.constant([[0.1, 0.2, 0.3]])
    np.testing.assert_allclose(bypass(model)(x), 3 * x, rtol=1e-6)


def test_a_condition_moves_the_state_by_one_step():
    image = keras.Input((3,))
    block = layers.ODEBlock(lambda t, h, condition: condition - h, final_time=0.5, name="pulled")
    model = keras.Model(image, block(0 * image, condition=image))
    x = tf.constant([[0.1, 0.2, 0.3]])
    np.testing.assert_allclose(bypass(model)(x), 0.5 * x, rtol=1e-6)
    np.testing.assert_allclose(model(x), (1 - np.exp(-0.5)) * x, rtol=5e-3)


def test_only_models_with_an_ode_are_attacked_without_it(ode_probe, honest):
    protocol = Protocol("linf", 0.1, 0.025, gradient="backprop")

    row = rows_of(ode_probe, protocol)[f"PGD-10, {BYPASS}"]
    assert row.changes == {"gradient"} and row.kind == "pgd"
    assert not any(BYPASS in name for name in rows_of(Probe(honest), protocol))


def test_a_solver_without_a_gradient_falls_to_the_network_around_it(toy):
    """One step of Euler's method rounds the state, and its derivative is zero."""
    keras.utils.set_random_seed(0)
    x, y = toy
    image = keras.Input(x.shape[1:])
    state = keras.layers.Flatten()(image)
    inner = layers.ODEBlock(lambda t, h: tf.round(20 * h) / 20 - h, solver="euler", name="flow")(state)
    model = keras.Model(image, keras.layers.Dense(3)(keras.layers.Dense(8, activation="tanh")(inner)))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, epochs=15, verbose=0)
    protocol, probe = Protocol("linf", 0.1, 0.025, gradient="backprop"), Probe(model)
    rows = rows_of(probe, protocol)

    def turned(name):
        outcome, *_ = attack_table.run_row(rows[name], probe, protocol, x[:24], y[:24], np.ones(24, bool), None)
        return outcome.turned.sum()

    probe.detours = {BYPASS: lambda: bypass(model)}
    assert not turned("PGD-10, backprop") and turned(f"PGD-10, {BYPASS}") > 12


def rows_of(probe, protocol):
    """The attack table's rows by name."""
    bench = measurements.Bench(probe, None, protocol, "quick", [None], KeptPieces)
    probe.detours = detours.always(bench)
    try:
        return {row.name: row for row in attack_table.rows_of(probe, protocol, "quick")}
    finally:
        probe.detours = {}
