"""The variables a dynamics reads are found, however it reads them."""

import numpy as np
import pytest
import tensorflow as tf

from tfode_adv import solvers


@pytest.mark.parametrize("gradient", ["backprop", "adjoint"])
@pytest.mark.parametrize("name", ["heun2", "euler"])
def test_a_compiled_dynamics_tells_of_its_weights_every_time(name, gradient):
    """Eagerly, a `tf.function` that was traced before runs without reading any variable."""
    weight = tf.Variable([[-0.5, 1.0], [0.2, -0.3]])
    field = tf.function(lambda t, y: tf.matmul(y, weight), autograph=False)
    solver = solvers.get(name, gradient=gradient)

    def to_weight():
        with tf.GradientTape() as tape:
            states = solver.solve(field, 0.0, tf.ones([3, 2]), [0.5], batch_ndims=1).states
        return tape.gradient(states, weight)

    first = to_weight()
    np.testing.assert_array_equal(to_weight(), first)
    assert np.abs(first).min() > 0


def test_a_tape_keeps_no_evaluation_of_the_samples():
    """Tapes watch the first evaluation for its variables alone: its other operations lead nowhere."""
    evaluated = []

    def field(t, y):
        evaluated.append(y)
        return tf.sin(y)

    y0 = tf.ones([2, 1])
    with tf.GradientTape() as tape:
        tape.watch(y0)
        solvers.get("euler").solve(field, 0.0, y0, [0.5], batch_ndims=1)
        lead_nowhere = tf.sin(evaluated[0])
    assert tape.gradient(lead_nowhere, y0) is None


@pytest.mark.parametrize(
    ("name", "options"), [("euler", {}), ("heun2", {"first_step_size": 0.1}), ("dopri5", {}), ("rk4", {})]
)
def test_an_empty_batch_has_weights_of_gradient_zero(name, options):
    weight = tf.Variable([1.0, 2.0])
    with tf.GradientTape() as tape:
        results = solvers.get(name, **options).solve(
            lambda t, y: -weight * y, 0.0, tf.zeros([0, 2]), [1.0], batch_ndims=1
        )
    np.testing.assert_array_equal(tape.gradient(results.states, weight), [0.0, 0.0])


def test_constants_of_whole_numbers_pass_through():
    """With kept stages and with a gradient to the other constants."""
    y0, gain = tf.constant([[2.0], [3.0]], tf.float64), tf.constant(-0.5, tf.float64)
    found = []
    for checkpoint in ("none", "steps"):
        with tf.GradientTape() as tape:
            tape.watch([y0, gain])
            results = solvers.get("midpoint", num_steps=4, checkpoint=checkpoint).solve(
                lambda t, y, gain, power: gain * y ** tf.cast(power["p"], y.dtype),
                0.0,
                y0,
                [1.0],
                batch_ndims=1,
                constants={"power": {"p": tf.constant([2, 1])[:, tf.newaxis]}, "gain": gain},
            )
        found.append(tape.gradient(results.states, [y0, gain]))
    for kept, recomputed in zip(*found, strict=True):
        np.testing.assert_allclose(kept, recomputed, rtol=1e-12)
    assert found[0][1] > 0
