"""Samples at rest, where the error is exactly zero; the bounds of a step's size."""

import numpy as np
import pytest
import tensorflow as tf

from tfode_adv import solvers
from tfode_adv.layers import ODEBlock, record_statistics
from tfode_adv.solvers import SolveError, Status


def gradient_at_rest(rate, **options):
    block = ODEBlock(lambda t, h: -rate * h, **options)
    h0 = tf.zeros([1, 3])
    with tf.GradientTape() as tape:
        tape.watch(h0)
        h1 = block(h0)
    return tape.gradient(h1, h0).numpy()


@pytest.mark.parametrize("gradient", ["backprop", "backprop_steps", "adjoint"])
@pytest.mark.parametrize(("rate", "final_time"), [(5.0, 1.0), (20.0, 1.0), (1.0, 25.0)])
def test_the_gradient_of_a_sample_at_rest_is_right(rate, final_time, gradient):
    found = gradient_at_rest(rate, final_time=final_time, gradient=gradient)
    # The adjoint is integrated itself, to a tolerance of 1e-3.
    atol = 2e-3 if gradient == "adjoint" else 1e-6
    np.testing.assert_allclose(found, np.exp(-rate * final_time), rtol=0.05, atol=atol)


def test_unlike_rates_at_rest():
    """The steepest of a thousand directions bounds the step."""
    rates = tf.constant([[40.0] + [0.5] * 999])
    h0 = tf.zeros([2, 1000])
    solver = solvers.get("dopri5", rtol=1e-3, atol=1e-3)
    with tf.GradientTape() as tape:
        tape.watch(h0)
        results = solver.solve(lambda t, h: -tf.squeeze(rates) * h, 0.0, h0, [1.0], batch_ndims=1)
    np.testing.assert_allclose(tape.gradient(results.states, h0)[0, 0], 0, atol=1e-3)
    diagnostics = results.diagnostics
    np.testing.assert_array_equal(diagnostics.num_steps_at_rest, diagnostics.num_accepted_steps)


def test_a_sample_that_moves_is_never_at_rest():
    solver = solvers.get("dopri5", rtol=1e-3, atol=1e-3)
    results = solver.solve(lambda t, h: -5 * h, 0.0, tf.constant([[0.0], [1.0]]), [1.0], batch_ndims=1)
    assert results.diagnostics.num_steps_at_rest[0] > 0 == results.diagnostics.num_steps_at_rest[1]


def test_steps_keep_to_their_bounds():
    def steps(**options):
        solver = solvers.get("dopri5", rtol=1e-2, atol=1e-2, **options)
        results = solver.solve(lambda t, h: -h, 0.0, tf.ones([1, 1]), [1.0], batch_ndims=1)
        return results.diagnostics.num_accepted_steps.numpy()[0], results.diagnostics.status.numpy()[0]

    assert steps(max_step=0.0625) == (16, Status.OK)
    assert steps()[0] < 5
    stiff = solvers.get("dopri5", rtol=1e-6, atol=1e-6, min_step=0.5, on_failure="status")
    results = stiff.solve(lambda t, h: -50 * h, 0.0, tf.ones([1, 1]), [1.0], batch_ndims=1)
    assert results.diagnostics.status.numpy() == [Status.UNDERFLOW]
    block = ODEBlock(lambda t, h: -5 * h, max_step=0.1, min_step=1e-4, endpoint="clip")
    config = block.get_config()
    assert (config["max_step"], config["min_step"], config["endpoint"]) == (0.1, 1e-4, "clip")
    for name, value in {"max_step": 0.0, "min_step": "small", "endpoint": "stop"}.items():
        with pytest.raises(ValueError, match=f"{name} is "):
            setattr(block, name, value)
    with pytest.raises(ValueError, match="min_step is 1"):
        solvers.get("dopri5", min_step=1.0, max_step=0.1)
    with pytest.raises(ValueError, match="equal steps"):
        solvers.get("rk4", max_step=0.1)


def test_a_block_keeps_to_its_bounds_too():
    with record_statistics() as records:
        ODEBlock(lambda t, h: -h, tol=1e-2, max_step=0.0625)(tf.ones([1, 1]))
    assert int(records[0][1].accepted[0]) == 16
    with pytest.raises(SolveError, match="needed a step below"):
        ODEBlock(lambda t, h: -50 * h, tol=1e-6, min_step=0.5)(tf.ones([1, 1]))
