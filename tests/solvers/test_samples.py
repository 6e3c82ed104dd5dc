"""Every sample has its own time, step size, error test, evaluations and status."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from hypothesis import given
from hypothesis import strategies as st

from tfode_adv import solvers
from tfode_adv.solvers import Status

SPEEDS = np.array([0.0, 0.5, 1.0, 3.0, 9.0, 27.0, 5.0, 2.0], np.float32)


def oscillator(t, y):
    """Each sample turns at its own speed, its third entry, and y' = y^2 blows up in the fourth."""
    del t
    x, v, speed, blast = tf.unstack(y, axis=1)
    return tf.stack([speed * v, -speed * x, tf.zeros_like(speed), blast**2], axis=1)


def starts(speeds, blasts=None):
    speeds = np.asarray(speeds, np.float32)
    blasts = np.zeros_like(speeds) if blasts is None else np.asarray(blasts, np.float32)
    return np.stack([np.ones_like(speeds), np.zeros_like(speeds), speeds, blasts], axis=1)


@pytest.fixture(scope="module", params=["backprop", "adjoint"])
def solve(request):
    quiet = {"on_failure": "status", "on_gradient_failure": "status"}
    solver = solvers.get("dopri5", rtol=1e-3, atol=1e-3, gradient=request.param, **quiet)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, 4], tf.float32)])
    def run(y0):
        with tf.GradientTape() as tape:
            tape.watch(y0)
            results = solver.solve(oscillator, 0.0, y0, [1.0], batch_ndims=1)
            loss = tf.reduce_sum(results.states[0, :, :2] ** 2 + results.states[0, :, :2])
        diagnostics = results.diagnostics
        return (
            results.states[0],
            tape.gradient(loss, y0),
            diagnostics.num_ode_fn_evaluations,
            diagnostics.status,
            diagnostics.final_time,
        )

    return lambda y0: [x.numpy() for x in run(tf.constant(y0))]


def test_unlike_samples_take_unlike_steps(solve):
    nfe = solve(starts([1.0, 3.0, 9.0, 27.0, 81.0]))[2]
    assert (np.diff(nfe) > 0).all()
    assert nfe.max() > 5 * nfe.min()


@pytest.fixture(scope="module")
def alone(solve):
    return [solve(starts(SPEEDS[i : i + 1])) for i in range(len(SPEEDS))]


@given(st.permutations(range(len(SPEEDS))), st.integers(1, len(SPEEDS)))
def test_a_sample_does_not_depend_on_its_neighbours(solve, alone, order, size):
    chosen = list(order)[:size]
    together = solve(starts(SPEEDS[chosen]))
    for row, i in enumerate(chosen):
        for a, b in zip(together, alone[i], strict=True):
            assert np.linalg.norm(a[row] - b[0]) <= 1e-5 * np.linalg.norm(b[0])


def test_exploding_and_broken_neighbours_change_nothing(solve):
    """y' = y^2 from 2 blows up at t = 1/2; another sample starts from NaN."""
    quiet = solve(starts([1.0, 3.0]))
    mixed = starts([1.0, 5.0, 3.0, 1.0], [0.0, 2.0, 0.0, np.nan])
    y1, gradient, nfe, status, time = solve(mixed)
    for a, b in zip((y1, gradient, nfe, status, time), quiet, strict=True):
        np.testing.assert_allclose(a[[0, 2]], b, rtol=1e-5, atol=1e-5)
    assert status[1] in (Status.UNDERFLOW, Status.NON_FINITE) and status[3] == Status.NON_FINITE
    assert 0.45 < time[1] <= 0.5
    assert np.isfinite(y1[:3]).all() and np.isfinite(gradient).all()
    assert (gradient[1] == 0).all()


def test_running_out_of_steps_is_a_status():
    solver = solvers.get("dopri5", rtol=1e-6, atol=1e-6, max_num_steps=7, on_failure="status")
    diagnostics = solver.solve(oscillator, 0.0, starts([0.1, 80.0]), [1.0], batch_ndims=1).diagnostics
    assert diagnostics.status.numpy().tolist() == [Status.OK, Status.MAX_NUM_STEPS]
    assert diagnostics.num_accepted_steps[1] + diagnostics.num_rejected_steps[1] == 7


def test_a_tolerance_below_the_number_type_ends_at_once():
    solver = solvers.get("dopri5", rtol=1e-12, atol=1e-12, on_failure="status")
    diagnostics = solver.solve(oscillator, 0.0, starts([1.0, 2.0]), [1.0], batch_ndims=1).diagnostics
    assert (diagnostics.status.numpy() == Status.UNDERFLOW).all()
    assert (diagnostics.num_ode_fn_evaluations.numpy() <= 2).all()


def test_each_sample_may_have_its_own_tolerance():
    y0 = starts([8.0, 8.0, 8.0])
    each = solvers.get("dopri5", rtol=tf.constant([1e-5, 1e-3, 1e-1]), atol=1e-4)
    together = each.solve(oscillator, 0.0, y0, [1.0], batch_ndims=1).diagnostics.num_ode_fn_evaluations.numpy()
    alone = [
        solvers.get("dopri5", rtol=tol, atol=1e-4)
        .solve(oscillator, 0.0, y0[:1], [1.0], batch_ndims=1)
        .diagnostics.num_ode_fn_evaluations.numpy()[0]
        for tol in (1e-5, 1e-3, 1e-1)
    ]
    assert together.tolist() == alone and together[0] > together[2]


def test_finished_samples_cost_nothing_more():
    """The dynamics is called with fewer samples once most are done."""
    sizes = []

    def counted(t, y):
        sizes.append(int(y.shape[0]))
        return oscillator(t, y)

    y0 = starts([0.0] * 15 + [80.0])
    nfe = (
        solvers.get("dopri5", rtol=1e-3, atol=1e-3)
        .solve(counted, 0.0, y0, [1.0], batch_ndims=1)
        .diagnostics.num_ode_fn_evaluations.numpy()
    )
    assert sum(sizes) < 2.2 * nfe.sum()
    assert sum(sizes) < 0.4 * len(y0) * nfe.max()


def test_a_coupled_batch_shares_its_steps():
    y0 = starts([0.5, 40.0])
    solver = solvers.get("dopri5", rtol=1e-3, atol=1e-3)
    for batch_ndims in (None, 0):
        results = solver.solve(oscillator, 0.0, y0, [1.0], batch_ndims=batch_ndims)
        assert results.states.shape == (1, 2, 4)
        assert results.diagnostics.num_ode_fn_evaluations.shape == ()


def test_several_batch_dimensions_and_structures():
    def field(t, state):
        return {"a": -state["a"] * t, "b": tf.reduce_sum(state["a"], -1, keepdims=True) * tf.ones_like(state["b"])}

    state = {"a": tf.ones([2, 3, 4]), "b": tf.zeros([2, 3, 1])}
    results = solvers.get("dopri5", rtol=1e-6, atol=1e-6).solve(field, 0.0, state, [0.5, 1.0], batch_ndims=2)
    assert results.states["b"].shape == (2, 2, 3, 1)
    assert results.diagnostics.status.shape == (2, 3)
    np.testing.assert_allclose(results.states["a"][1], np.exp(-0.5) * np.ones([2, 3, 4]), rtol=1e-5)


def test_zero_samples():
    results = solvers.get("dopri5").solve(oscillator, 0.0, tf.zeros([0, 4]), [1.0], batch_ndims=1)
    assert results.states.shape == (1, 0, 4)


def test_times_chosen_by_the_solver():
    solver = solvers.get("dopri5", rtol=1e-6, atol=1e-6)
    y0 = starts([0.5, 9.0])
    results = solver.solve(oscillator, 0.0, y0, tfp.math.ode.ChosenBySolver(1.0), batch_ndims=1)
    assert len(results.times) == 1 + results.diagnostics.num_accepted_steps.numpy().max()
    assert (np.diff(results.times) > 0).all() and results.times[0] == 0 and results.times[-1] == 1
    np.testing.assert_array_equal(results.states[0], y0)
    turned = np.cos(np.outer(results.times, [0.5, 9.0]))
    np.testing.assert_allclose(results.states[:, :, 0], turned, atol=1e-4)


def test_times_are_chosen_by_a_sample_that_arrives():
    solver = solvers.get("heun2", rtol=1e-2, atol=1e-2, max_num_steps=40, on_failure="status")
    y0 = starts([1.0, 0.5], [0.0, 3.0])
    results = solver.solve(oscillator, 0.0, y0, tfp.math.ode.ChosenBySolver(1.0), batch_ndims=1)
    accepted = results.diagnostics.num_accepted_steps.numpy()
    assert results.diagnostics.status.numpy().astype(bool).tolist() == [False, True]
    assert len(results.times) == 1 + accepted[0] < accepted[1]
    nobody = solver.solve(oscillator, 0.0, y0[:0], tfp.math.ode.ChosenBySolver(1.0), batch_ndims=1)
    assert nobody.states.shape == (2, 0, 4)


def test_a_warm_start_takes_the_last_step_size():
    solver = solvers.get("dopri5", rtol=1e-5, atol=1e-5)
    y0 = starts([3.0])
    first = solver.solve(oscillator, 0.0, y0, [1.0], batch_ndims=1)
    cold = solver.solve(oscillator, 1.0, first.states[0], [2.0], batch_ndims=1)
    warm = solver.solve(
        oscillator,
        1.0,
        first.states[0],
        [2.0],
        batch_ndims=1,
        previous_solver_internal_state=first.solver_internal_state,
    )
    assert warm.diagnostics.num_ode_fn_evaluations[0] < cold.diagnostics.num_ode_fn_evaluations[0]
    np.testing.assert_allclose(warm.states, cold.states, atol=1e-3)


def test_the_proportional_integral_controller_rejects_no_more():
    def relaxing(t, y):
        return -50.0 * (y - tf.cos(t))

    y0 = tf.constant([[0.0]], tf.float64)
    counts = {}
    for controller in ("i", "pi"):
        solver = solvers.get("dopri5", rtol=1e-4, atol=1e-4, controller=controller)
        results = solver.solve(relaxing, 0.0, y0, [1.0], batch_ndims=1)
        counts[controller] = results.diagnostics.num_rejected_steps.numpy()[0]
        np.testing.assert_allclose(results.states[0, 0, 0], np.cos(1) * 2500 / 2501 + np.sin(1) * 50 / 2501, atol=1e-3)
    assert counts["pi"] <= counts["i"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rtol": -1.0}, "rtol is -1.0"),
        ({"rtol": 0.0}, "greater than 0"),
        ({"rtol": "1e-3"}, "rtol is '1e-3', but must be a number"),
        ({"rtol": np.float32(-1)}, "rtol is -1.0"),
        ({"atol": np.array([1e-3, -1.0])}, "atol is -1.0"),
        ({"first_step_size": -0.1}, "first_step_size is -0.1"),
        ({"tol": 0.1}, "option of dopri5 is 'tol'.*rtol"),
        ({"max_num_steps": 2.5}, "max_num_steps is 2.5"),
        ({"controller": "pid"}, "i, pi"),
        ({"endpoint": "stop"}, "interpolate, clip"),
        ({"gradient": "magic"}, "backprop, backprop_steps, adjoint"),
        ({"max_num_steps": 0}, "max_num_steps is 0"),
        ({"num_steps": 3}, "chooses its own steps"),
    ],
)
def test_bad_options_are_one_clear_line(options, words):
    with pytest.raises(ValueError, match=words):
        solvers.get("dopri5", **options)


@pytest.mark.parametrize("steps", [0, np.int64(-3), 2.5])
def test_fixed_steps_are_a_positive_whole_number(steps):
    with pytest.raises(ValueError, match=f"num_steps is {steps}"):
        solvers.get("rk4", num_steps=steps)


def test_one_tolerance_a_sample_is_as_many_as_samples():
    with pytest.raises(ValueError, match="one value a sample has shape"):
        solvers.get("heun2", rtol=np.full(3, 1e-3)).solve(oscillator, 0.0, starts([1.0] * 5), [1.0], batch_ndims=1)


def test_unknown_solvers_and_bad_times_are_one_clear_line():
    with pytest.raises(
        ValueError, match="dopri6.*tfp, dopri5, dopri5_cas, bosh3, heun2, euler, midpoint, rk4, kutta38"
    ):
        solvers.get("dopri6")
    with pytest.raises(ValueError, match="must not decrease"):
        solvers.get("dopri5").solve(oscillator, 0.0, starts([1.0]), [1.0, 0.5], batch_ndims=1)
    with pytest.raises(ValueError, match="shape"):
        solvers.get("dopri5").solve(lambda t, y: y[:, :2], 0.0, starts([1.0]), [1.0], batch_ndims=1)
