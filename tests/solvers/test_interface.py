"""The interface is that of `tfp.math.ode`: what its users write works with these solvers too."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfode_adv import solvers


def decay(t, y):
    return -y


def solve(times, initial_time=0.0, batch_ndims=1, **options):
    solver = solvers.get("heun2", rtol=1e-2, atol=1e-2, **options)
    return solver.solve(decay, initial_time, tf.ones([2, 1]), times, batch_ndims=batch_ndims)


def test_a_compiled_function_returns_all_results():
    found, expected = tf.function(solve, autograph=False)([1.0]), solve([1.0])
    assert isinstance(found.diagnostics, tfp.math.ode.Diagnostics)
    assert found.diagnostics.success.numpy().all()
    for name in ("num_ode_fn_evaluations", "num_accepted_steps", "num_rejected_steps", "status", "final_time"):
        np.testing.assert_array_equal(getattr(found.diagnostics, name), getattr(expected.diagnostics, name))
    assert found.diagnostics.num_jacobian_evaluations == found.diagnostics.num_matrix_factorizations == 0
    np.testing.assert_allclose(found.solver_internal_state.step_size, expected.solver_internal_state.step_size)


def test_a_failure_is_no_success():
    diagnostics = solve([1.0], max_num_steps=1, first_step_size=0.1, on_failure="status").diagnostics
    assert not diagnostics.success.numpy().any() and not diagnostics.success_status.numpy().any()


@pytest.mark.parametrize("batch_ndims", [None, 1])
def test_times_chosen_by_the_solver_begin_and_end_as_tfps_do(batch_ndims):
    chosen = tfp.math.ode.ChosenBySolver(1.0)
    stock = solvers.get("tfp", rtol=1e-2, atol=1e-2).solve(decay, 0.5, tf.ones([2, 1]), chosen)
    found = solve(chosen, initial_time=0.5, batch_ndims=batch_ndims)
    for results in (stock, found):
        assert results.times[0] == 0.5 and results.times[-1] == 1.0
        np.testing.assert_array_equal(results.states[0], np.ones([2, 1]))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("initial_time", "times", "words"),
    [(0.0, [1.0, 0.5], r"\[0.0, 1.0, 0.5\]"), (0.0, [-1.0], r"\[0.0, -1.0\]"), (2.0, [1.0], r"\[2.0, 1.0\]")],
)
def test_times_out_of_order_are_one_clear_line(initial_time, times, words, compiled):
    run = tf.function(solve, autograph=False) if compiled else solve
    with pytest.raises(ValueError, match=f"solution_times must not decrease, from initial_time on, but are {words}"):
        run(times, initial_time=initial_time)


def test_times_known_at_run_time_alone_are_checked_there():
    run = tf.function(lambda start, times: solve(times, start, validate_args=True).states, autograph=False)
    assert run(tf.constant(0.0), tf.constant([0.5, 1.0])).shape == (2, 2, 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="must not decrease"):
        run(tf.constant(0.7), tf.constant([0.5, 1.0]))
