"""Under XLA: buffers of fixed size, and no sample is ever left out of the batch."""

import numpy as np
import pytest
import tensorflow as tf

from tests.solvers.test_gradients import TIMES, WEIGHTS, Y0, loss_of
from tfode_adv import solvers
from tfode_adv.errors import UsageError


@pytest.mark.parametrize("gradient", ["backprop", "backprop_steps", "adjoint"])
def test_compiled_by_xla_the_gradients_are_the_same(gradient):
    solver = solvers.get("heun2", rtol=1e-3, atol=1e-3, gradient=gradient)

    def run(y0, gain):
        with tf.GradientTape() as tape:
            tape.watch([y0, gain])
            loss = loss_of(solver, tf.constant(WEIGHTS), y0, gain, TIMES[1:])
        return loss, *tape.gradient(loss, [y0, gain])

    arguments = tf.constant(Y0), tf.constant(0.8, tf.float64)
    plain = run(*arguments)
    compiled = tf.function(run, autograph=False, jit_compile=True)(*arguments)
    for a, b in zip(plain, compiled, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


@pytest.mark.parametrize("gradient", ["backprop", "backprop_steps"])
def test_under_xla_a_broken_sample_spoils_no_weight(gradient):
    """There it is carried along to the end; its slopes overflow, and 0 * infinity is not a number."""
    gain = tf.Variable(1.0, dtype=tf.float64)
    solver = solvers.get("heun2", rtol=1e-2, atol=1e-2, first_step_size=0.1, gradient=gradient)

    def explosive(t, y):
        value, rate = tf.unstack(y, axis=1)
        return tf.stack([gain * tf.exp(rate * value) - gain, 0 * rate], 1)

    @tf.function(autograph=False, jit_compile=True)
    def run(rates):
        with tf.GradientTape() as tape:
            y0 = tf.stack([tf.fill([2], tf.constant(0.5, tf.float64)), rates], 1)
            results = solver.solve(explosive, 0.0, y0, [1.0], batch_ndims=1)
        return results.diagnostics.status, tape.gradient(results.states, gain)

    status, alone = run(tf.constant([0.3, 0.3], tf.float64))
    assert status.numpy().tolist() == [0, 0]
    status, among = run(tf.constant([0.3, 500.0], tf.float64))
    assert (status.numpy() == 0).tolist() == [True, False]
    np.testing.assert_allclose(2 * among, alone, rtol=1e-12)


def test_a_tape_outside_what_xla_compiled_gets_a_clear_line():
    solver = solvers.get("euler", num_steps=2)
    solve = tf.function(
        lambda y0: solver.solve(lambda t, y: -y, 0.0, y0, [1.0], batch_ndims=1).states,
        autograph=False,
        jit_compile=True,
    )
    y0 = tf.ones([2, 1])
    np.testing.assert_allclose(solve(y0)[0], 0.25 * y0)
    with pytest.raises(UsageError, match="put the tape inside the compiled function"), tf.GradientTape() as tape:
        tape.watch(y0)
        solve(y0)
