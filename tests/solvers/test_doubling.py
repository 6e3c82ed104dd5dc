"""The controlled adaptive solver: steps doubled, kept or halved by the sum of the errors."""

import numpy as np
import pytest
import tensorflow as tf

from tfode_adv import solvers
from tfode_adv.errors import UsageError
from tfode_adv.solvers.tableaus import DOPRI5

RATES = np.array([-0.5, -3.0, -20.0])


def field(t, y):
    return tf.constant(RATES, y.dtype) * y * (1 + t)


def solve(y0, first, tol, **options):
    solver = solvers.Dopri5CAS(rtol=1.0, atol=tol, first_step_size=first, endpoint="clip", **options)
    return solver.solve(field, 0.0, tf.constant(y0, tf.float64), [1.0], batch_ndims=1)


def by_hand(y, step, tol):
    """The program's loop for one sample: state, steps accepted, steps rejected."""
    t, accepted, rejected = 0.0, 0, 0
    while t < 1:
        step = min(step, 1 - t)
        slopes = []
        for a, c in zip(DOPRI5.a, DOPRI5.c, strict=True):
            state = y + step * sum(w * k for w, k in zip(a, slopes, strict=True))
            slopes.append(RATES * state * (1 + t + c * step))
        error = np.abs(step * sum(w * k for w, k in zip(DOPRI5.error, slopes, strict=True))).sum() / tol
        if error > 1:
            step, rejected = step / 2, rejected + 1
            continue
        t, y, accepted = t + step, y + step * sum(w * k for w, k in zip(DOPRI5.b, slopes, strict=True)), accepted + 1
        if error <= 2**-5:
            step *= 2
    return y, accepted, rejected


@pytest.mark.parametrize("tol", [1e-1, 5e-3, 1e-6])
@pytest.mark.parametrize("first", [0.003, 0.11, 0.7, 1.0])
def test_steps_are_those_of_the_program_s_loop(first, tol):
    y0 = [[1.0, 2.0, 3.0], [0.1, -0.2, 0.0], [30.0, 0.0, 5.0]]
    results = solve(y0, first, tol)
    for i, start in enumerate(y0):
        state, accepted, rejected = by_hand(np.array(start), first, tol)
        np.testing.assert_allclose(results.states[0, i], state, rtol=1e-12)
        assert results.diagnostics.num_accepted_steps[i] == accepted
        assert results.diagnostics.num_rejected_steps[i] == rejected


def test_what_counts_is_the_sum_over_the_state():
    """A state four times over has four times the error, whatever the relative tolerance."""
    y0 = np.array([[1.0, 2.0, 3.0]])
    wide = solvers.Dopri5CAS(rtol=1e-9, atol=4e-4, first_step_size=0.1, endpoint="clip").solve(
        field, 0.0, tf.constant(np.stack([y0] * 4, 1)), [1.0], batch_ndims=1
    )
    narrow = solve(y0, 0.1, 1e-4)
    np.testing.assert_allclose(wide.states[0, :, 0], narrow.states[0], rtol=1e-12)
    assert wide.diagnostics.num_rejected_steps[0] == narrow.diagnostics.num_rejected_steps[0]


def test_sizes_of_steps_have_no_derivative():
    def gradient(name):
        y0 = tf.constant([[1.0, 2.0, 3.0]], tf.float64)
        solver = solvers.Dopri5CAS(atol=1e-3, first_step_size=0.4, endpoint="clip", gradient=name)
        with tf.GradientTape() as tape:
            tape.watch(y0)
            state = solver.solve(field, 0.0, y0, [1.0], batch_ndims=1).states[0]
        return tape.gradient(state, y0)

    np.testing.assert_allclose(gradient("backprop_steps"), gradient("backprop"), rtol=1e-12)


def test_at_rest_steps_double():
    still = solvers.Dopri5CAS(atol=1e-3, first_step_size=0.1, endpoint="clip").solve(
        lambda t, y: 0 * y, 0.0, tf.ones([1, 2]), [1.0], batch_ndims=1
    )
    assert still.diagnostics.num_accepted_steps[0] == 4  # 0.1, 0.2, 0.4, and 0.3 to the end
    assert still.diagnostics.num_ode_fn_evaluations[0] == 1 + 4 * 6


def test_its_factors_are_its_own():
    with pytest.raises(UsageError, match="'doubling', whose factors are 1/2, 1 and 2: it has no safety_factor"):
        solvers.Dopri5CAS(safety_factor=0.8)
    with pytest.raises(UsageError, match="controller is 'halving', but must be one of: i, pi, doubling"):
        solvers.Dopri5(controller="halving")
