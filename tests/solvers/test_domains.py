"""Fields defined on part of the line or of the space; times far from 0; norms of nothing."""

import numpy as np
import pytest
import tensorflow as tf

from tfode_adv import solvers
from tfode_adv.layers import ODEBlock
from tfode_adv.solvers import Status


@pytest.mark.parametrize("endpoint", ["interpolate", "clip"])
@pytest.mark.parametrize("gradient", ["backprop", "adjoint"])
def test_a_field_that_ends_where_the_integration_does(endpoint, gradient):
    block = ODEBlock(lambda t, h: 1.5 * tf.sqrt(1.0 - t) + 0 * h, endpoint=endpoint, gradient=gradient)
    h0 = tf.zeros([2, 1])
    with tf.GradientTape() as tape:
        tape.watch(h0)
        h1 = block(h0)
    np.testing.assert_allclose(h1, [[1.0], [1.0]], atol=2e-3)
    np.testing.assert_allclose(tape.gradient(h1, h0), [[1.0], [1.0]], atol=1e-5)


def test_nothing_is_evaluated_past_the_end_of_a_clipped_solve():
    """The probe of the first step neither: a slow dynamics on a short interval tempts it most."""
    seen = []
    block = ODEBlock(lambda t, h: seen.append(float(t[0, 0])) or 1e-4 * h, endpoint="clip", final_time=0.3)
    block(tf.ones([1, 1]))
    assert max(seen) == np.float32(0.3)


def test_the_adjoint_stays_inside_too():
    """h' = p sqrt(t): dh(1)/dp = 2/3; the square root has no value before 0."""
    p = tf.Variable(1.0)
    block = ODEBlock(lambda t, h: p * tf.sqrt(t) + 0 * h, gradient="adjoint", tol=1e-4)
    with tf.GradientTape() as tape:
        h1 = block(tf.zeros([1, 1]))
    np.testing.assert_allclose(tape.gradient(h1, p), 2 / 3, rtol=1e-3)


def test_the_adjoint_of_a_clipped_solve_is_never_before_its_start():
    """A slow dynamics on a short interval tempts it most."""
    seen = []
    field = lambda t, h: seen.append(float(t[0, 0])) or 1e-4 * h  # noqa: E731
    block = ODEBlock(field, endpoint="clip", final_time=0.3, gradient="adjoint")
    h0 = tf.ones([1, 1])
    with tf.GradientTape() as tape:
        tape.watch(h0)
        h1 = block(h0)
    seen.clear()
    np.testing.assert_allclose(tape.gradient(h1, h0), [[np.exp(3e-5)]], rtol=1e-6)
    assert min(seen) == 0 and max(seen) == np.float32(0.3)


@pytest.mark.parametrize("name", ["dopri5", "bosh3", "heun2"])
def test_a_step_out_of_the_fields_domain_is_rejected(name):
    """y' = -sqrt(y) from 1: y = (1 - t/2)^2, which long steps overshoot below 0."""
    solver = solvers.get(name, rtol=1e-3, atol=1e-6)
    results = solver.solve(lambda t, y: -tf.sqrt(y), 0.0, tf.ones([1, 1], tf.float64), [1.9], batch_ndims=1)
    assert results.diagnostics.status.numpy() == [Status.OK]
    np.testing.assert_allclose(results.states[0], [[0.0025]], atol=2e-4)


def test_a_field_that_is_nowhere_finite_fails():
    solver = solvers.get("dopri5", on_failure="status")
    broken = solver.solve(lambda t, y: y * np.nan, 0.0, tf.ones([1, 1]), [1.0], batch_ndims=1)
    assert broken.diagnostics.status.numpy() == [Status.NON_FINITE]
    # From 0.5 on there is nothing: the steps shrink until the time stands still.
    ends = solver.solve(lambda t, y: tf.sqrt(0.5 - t) + 0 * y, 0.0, tf.ones([1, 1]), [1.0], batch_ndims=1)
    assert ends.diagnostics.status.numpy() != [Status.OK]
    np.testing.assert_allclose(ends.diagnostics.final_time, [0.5], atol=1e-3)


def test_a_state_that_overflows_is_not_accepted():
    solver = solvers.get("heun2", rtol=1e-3, atol=1e-3, max_num_steps=40, on_failure="status")
    field = lambda t, y: 1e38 + 0 * t  # noqa: E731
    results = solver.solve(field, 0.0, tf.constant([[3e38]]), [10.0], batch_ndims=1)
    assert results.diagnostics.status.numpy() != [Status.OK] and np.isfinite(results.states).all()


@pytest.mark.parametrize("slope", [0.0, 1.0])
@pytest.mark.parametrize("start", [300.0, 1e6])
def test_a_first_step_moves_the_time(start, slope):
    solver = solvers.get("dopri5", rtol=1e-3, atol=1e-3)
    y0 = tf.zeros([1, 1])
    results = solver.solve(lambda t, y: slope + 0 * y, start, y0, [start + 1], batch_ndims=1)
    assert results.diagnostics.status.numpy() == [Status.OK]
    # Each step's end is rounded to the nearest time there is: at a million they are a sixteenth apart.
    rounding = 0.5 * np.spacing(np.float32(start)) * float(results.diagnostics.num_accepted_steps[0])
    assert rounding < 0.07
    np.testing.assert_allclose(results.states[0], [[slope]], atol=slope * rounding)


def test_an_adjoint_at_rest_far_from_zero():
    block = ODEBlock(lambda t, h: 0 * h, gradient="adjoint", final_time=1000.0)
    h0 = tf.zeros([1, 2])
    with tf.GradientTape() as tape:
        tape.watch(h0)
        h1 = block(h0)
    np.testing.assert_allclose(tape.gradient(h1, h0), [[1.0, 1.0]])


def test_an_empty_component_has_no_say():
    solver = solvers.get("dopri5", rtol=1e-5, atol=1e-5)
    state = tf.ones([2, 1]), tf.zeros([2, 0])
    results = solver.solve(lambda t, y: (-y[0], y[1]), 0.0, state, [1.0], batch_ndims=1)
    np.testing.assert_allclose(results.states[0][0], np.full([2, 1], np.exp(-1)), rtol=1e-4)
    assert results.states[1].shape == (1, 2, 0)


@pytest.mark.parametrize("gradient", ["backprop", "backprop_steps", "adjoint"])
def test_a_zero_entry_needs_no_absolute_tolerance(gradient):
    solver = solvers.get("dopri5", rtol=1e-4, atol=0.0, gradient=gradient)
    y0 = tf.constant([[0.0, 1.0]])
    with tf.GradientTape() as tape:
        tape.watch(y0)
        y = solver.solve(lambda t, y: -y, 0.0, y0, [1.0], batch_ndims=1).states[0]
    np.testing.assert_allclose(y, [[0, np.exp(-1)]], rtol=1e-4)
    np.testing.assert_allclose(tape.gradient(y, y0), np.full([1, 2], np.exp(-1)), rtol=1e-3)


def test_one_slope_for_any_number_of_samples_is_refused():
    block = ODEBlock(lambda t, h: tf.constant([[1.0, 2.0, 3.0]]))
    run = tf.function(block, autograph=False, input_signature=[tf.TensorSpec([None, 3])])
    with pytest.raises(ValueError, match=r"returned shape \(1, 3\) for a state of shape \(None, 3\)"):
        run(tf.ones([4, 3]))


@pytest.mark.parametrize("endpoint", ["interpolate", "clip"])
def test_the_gradient_through_the_step_sizes_stays_inside_too(endpoint):
    """h' = p sqrt(1 - t): the slope's own derivative is infinite where the integration, and so its last step, ends."""
    p = tf.Variable(1.5)
    block = ODEBlock(lambda t, h: p * tf.sqrt(1.0 - t) + 0 * h, gradient="backprop_steps", tol=1e-4, endpoint=endpoint)

    @tf.function(autograph=False)
    def gradients(h0):
        with tf.GradientTape() as tape:
            tape.watch(h0)
            h1 = block(h0)
        return tape.gradient(h1, [h0, p])

    to_h0, to_p = gradients(tf.zeros([2, 1]))
    np.testing.assert_allclose(to_h0, [[1.0], [1.0]], atol=2e-3)
    np.testing.assert_allclose(to_p, 2 * 2 / 3, rtol=2e-3)


@pytest.mark.parametrize("name", ["dopri5", "bosh3", "heun2"])
def test_a_step_that_overflows_is_tried_again_shorter(name):
    """y' = -100 y^3 from 10: y = (1 / 100 + 200 t)^(-1/2); a first step of 1 leads far beyond what numbers hold."""
    solver = solvers.get(name, rtol=1e-4, atol=1e-6, first_step_size=1.0, on_failure="status")
    y0 = tf.fill([1, 1], tf.constant(10.0, tf.float64))
    run = tf.function(lambda y: solver.solve(lambda t, y: -100 * y**3, 0.0, y, [1.0], batch_ndims=1), autograph=False)
    results = run(y0)
    assert results.diagnostics.status.numpy() == [Status.OK]
    assert results.diagnostics.num_rejected_steps.numpy() > 0
    np.testing.assert_allclose(results.states[0], [[200.01**-0.5]], rtol=1e-2)
