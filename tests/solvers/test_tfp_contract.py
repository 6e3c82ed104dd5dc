"""What `tfp.math.ode` promises of a solver: failure, statuses, adjoint solvers, types, TensorFlow 1 graphs."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfode_adv import solvers

ode = tfp.math.ode


def decay(t, y):
    return -y


def explosion(t, y):
    """From 1 it reaches infinity at t = 1."""
    return y * y


@pytest.mark.parametrize("compiled", [False, True])
def test_a_failed_solve_raises(compiled):
    solver = solvers.get("heun2", rtol=1e-2, atol=1e-2, max_num_steps=60)

    def solve(y0):
        return solver.solve(explosion, 0.0, y0, [2.0], batch_ndims=1).states

    run = tf.function(solve, autograph=False) if compiled else solve
    with pytest.raises(
        (solvers.SolveError, tf.errors.InvalidArgumentError), match="(?s)the solve failed for.*1.*of.*2"
    ):
        run(tf.constant([[1.0], [0.1]]))


def test_a_failed_solve_under_xla_is_nan():
    solver = solvers.get("heun2", rtol=1e-2, atol=1e-2, max_num_steps=60)
    run = tf.function(
        lambda y0: solver.solve(explosion, 0.0, y0, [2.0], batch_ndims=1).states, autograph=False, jit_compile=True
    )
    found = run(tf.constant([[1.0], [0.1]]))[0, :, 0]
    assert np.isnan(found[0])
    np.testing.assert_allclose(found[1], 0.125, rtol=1e-2)


def test_a_failure_that_does_not_raise_has_a_negative_status():
    solver = solvers.get("heun2", rtol=1e-2, atol=1e-2, max_num_steps=60, on_failure="status")
    diagnostics = solver.solve(explosion, 0.0, tf.constant([[1.0], [0.1]]), [2.0], batch_ndims=1).diagnostics
    assert diagnostics.status[0] < 0 and diagnostics.status[1] == 0
    np.testing.assert_array_equal(diagnostics.success, [False, True])


def test_steps_are_tried_where_the_tolerance_is_below_the_number_type():
    y0 = tf.constant([1.0, 2.0])
    with tf.GradientTape() as tape:
        tape.watch(y0)
        end = solvers.Dopri5(rtol=1e-8, atol=1e-12).solve(decay, 0.0, y0, [1.0]).states[0]
    np.testing.assert_allclose(end, np.exp(-1) * np.array([1, 2]), rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(end, y0), np.exp([-1, -1]), rtol=1e-5)


STOCK = {"rtol": 1e-6, "atol": 1e-8}


def gradients_of_growth(solver, times=(0.5, 1.0)):
    """Of y0 exp(w t) at both times, w = rate * gain, with respect to y0, the rate (a variable) and the gain."""
    y0, gain = tf.constant([1.0, -2.0], tf.float64), tf.constant(0.5, tf.float64)
    rate = tf.Variable(0.8, dtype=tf.float64)
    with tf.GradientTape() as tape:
        tape.watch([y0, gain])
        states = solver.solve(lambda t, y, gain: rate * gain * y, 0.0, y0, times, constants={"gain": gain}).states
        loss = tf.reduce_sum(states)
    return tape.gradient(loss, [y0, rate, gain])


def right_gradients_of_growth(times=(0.5, 1.0)):
    growth = np.exp(0.4 * np.array(times))
    grown, to_exponent = growth.sum(), -growth @ times
    return [grown, grown], 0.5 * to_exponent, 0.8 * to_exponent


@pytest.mark.parametrize(
    ("adjoint", "times", "rtol"),
    [
        # So coarse and short because it builds a Jacobian a step.
        (lambda: ode.BDF(rtol=1e-3, atol=1e-5), (0.05, 0.1), 1e-3),
        (lambda: ode.DormandPrince(**STOCK), (0.5, 1.0), 1e-4),
        (lambda: solvers.Dopri5(**STOCK), (0.5, 1.0), 1e-4),
    ],
    ids=["BDF", "DormandPrince", "Dopri5"],
)
def test_an_adjoint_solver_is_used_wherever_it_is_given(adjoint, times, rtol):
    used = []
    solver = solvers.get("dopri5", **STOCK, make_adjoint_solver_fn=lambda: used.append(1) or adjoint())
    for found, right in zip(gradients_of_growth(solver, times), right_gradients_of_growth(times), strict=True):
        np.testing.assert_allclose(found, right, rtol=rtol)
    assert used
    with pytest.raises(ValueError, match="gradient is 'backprop', but make_adjoint_solver_fn is for 'adjoint'"):
        solvers.get("heun2", gradient="backprop", make_adjoint_solver_fn=adjoint)


def test_ours_solves_the_adjoint_equation_of_a_stock_solver():
    solver = ode.DormandPrince(**STOCK, make_adjoint_solver_fn=lambda: solvers.Dopri5(**STOCK))
    for found, right in zip(gradients_of_growth(solver), right_gradients_of_growth(), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-4)


def test_diagnostics_are_tensors():
    diagnostics = solvers.get("euler").solve(decay, 0.0, tf.ones([2]), [1.0]).diagnostics
    for name in ("num_ode_fn_evaluations", "num_jacobian_evaluations", "num_matrix_factorizations", "status"):
        assert getattr(diagnostics, name).dtype == tf.int32 and getattr(diagnostics, name).shape == (), name


def test_a_state_of_integers_is_a_type_error():
    with pytest.raises(TypeError, match="initial_state has dtype int32, but must be floating or complex"):
        solvers.get("euler").solve(decay, 0.0, tf.constant([1, 2]), [1.0])


@pytest.mark.parametrize("gradient", ["backprop", "backprop_steps", "adjoint"])
def test_a_graph_of_tensorflow_1(gradient):
    """Where `==` of two tensors asks whether they are the same one."""
    solver = solvers.get("heun2", rtol=1e-4, atol=1e-4, gradient=gradient)
    with tf.Graph().as_default():
        y0 = tf.constant([[1.0], [2.0]], tf.float64)
        results = solver.solve(decay, 0.0, y0, [0.5, 1.0], batch_ndims=1)
        (to_start,) = tf.gradients(results.states[1], y0)
        with tf.compat.v1.Session() as session:
            states, status, to_start = session.run([results.states, results.diagnostics.status, to_start])
    np.testing.assert_array_equal(status, [0, 0])
    np.testing.assert_allclose(states[1], np.exp(-1) * np.array([[1.0], [2.0]]), rtol=1e-3)
    np.testing.assert_allclose(to_start, np.exp([[-1.0], [-1.0]]), rtol=1e-3)


QUIET = {"on_failure": "status", "on_gradient_failure": "status", "max_num_steps": 40}
IN_GRAPHS = {
    "several slopes": (lambda t, y, c: -c * y, {"gradient": "backprop"}, "bosh3"),
    "at rest": (lambda t, y, c: -8 * c * y, {"gradient": "backprop_steps"}, "heun2"),
    "a field that ends": (lambda t, y, c: c * tf.sqrt(1 - t) + 0 * y, {"gradient": "backprop_steps"}, "heun2"),
    "parameters": (lambda t, y, c: -c * y, {"gradient": "adjoint"}, "heun2"),
    "a failed sample": (lambda t, y, c: 10 * c * y * y, {"gradient": "backprop", **QUIET}, "heun2"),
    "a failed sample's adjoint": (lambda t, y, c: 10 * c * y * y, {"gradient": "adjoint", **QUIET}, "heun2"),
    "a stock adjoint": (
        lambda t, y, c: -c * y,
        {"make_adjoint_solver_fn": lambda: ode.DormandPrince(**STOCK)},
        "heun2",
    ),
}


@pytest.mark.parametrize(("slope", "options", "method"), IN_GRAPHS.values(), ids=IN_GRAPHS)
def test_a_graph_of_tensorflow_1_computes_what_is_computed_at_once(slope, options, method):
    """A state of two parts and a side input, of a number of samples that the graph does not know."""
    solver = solvers.get(method, rtol=1e-3, atol=1e-3, **options)
    given = np.array([[0.0], [1.0], [0.2]]), np.array([[1.0], [0.3], [2.0]])

    def field(t, state, c):
        return tf.nest.map_structure(lambda y: slope(t, y, c), state)

    def solved(y0, c):
        results = solver.solve(field, 0.0, (y0, y0 / 2), [0.5, 1.0], batch_ndims=1, constants={"c": c})
        return (*results.states, results.diagnostics.success)

    y0, c = map(tf.constant, given)
    with tf.GradientTape() as tape:
        tape.watch([y0, c])
        *states, success = solved(y0, c)
        loss = tf.add_n([tf.reduce_sum(part) for part in states])
    at_once = [*states, success, *tape.gradient(loss, [y0, c])]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        places = [tf.compat.v1.placeholder(tf.float64, [None, 1]) for _ in given]
        *states, success = solved(*places)
        loss = tf.add_n([tf.reduce_sum(part) for part in states])
        asked = [*states, success, *tf.gradients(loss, places)]
        found = session.run(asked, dict(zip(places, given, strict=True)))
    for one, other in zip(found, at_once, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)


def test_a_graph_of_tensorflow_1_chooses_the_same_times():
    def times():
        y0 = tf.constant([[1.0], [3.0]], tf.float64)
        solver = solvers.get("heun2", rtol=1e-2, atol=1e-2)
        return solver.solve(lambda t, y: -y * y, 0.0, y0, ode.ChosenBySolver(1.0), batch_ndims=1).times

    at_once = times()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        np.testing.assert_allclose(session.run(times()), at_once)
    assert len(at_once) > 3


@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
def test_a_complex_state_turns(method):
    """y' = i y: after pi / 2 one is i."""
    solver = solvers.get(method, rtol=1e-6, atol=1e-6)
    y0 = tf.constant([1 + 0j], tf.complex128)
    end = solver.solve(lambda t, y: 1j * y, 0.0, y0, [np.pi / 2]).states[0]
    np.testing.assert_allclose(end, [1j], atol=1e-3)


def test_a_solve_goes_on_where_one_ended():
    """The step size found first is the second one's start, and the whole is the closed form y = 1 / (2 - t)."""
    solver = solvers.get("dopri5", rtol=1e-6, atol=1e-6)
    y0 = tf.constant([0.5], tf.float64)
    first = solver.solve(explosion, 0.0, y0, [1.0])
    state = first.solver_internal_state
    warm = solver.solve(explosion, 1.0, first.states[0], [1.5], previous_solver_internal_state=state)
    cold = solver.solve(explosion, 1.0, first.states[0], [1.5])
    np.testing.assert_allclose(warm.states[0], [2.0], rtol=1e-4)
    assert warm.diagnostics.num_ode_fn_evaluations <= cold.diagnostics.num_ode_fn_evaluations


def test_a_matrix_exponential():
    """A linear system, in a state with a structure."""
    a = np.array([[0.0, 1.0], [-2.0, -0.3]])
    values, vectors = np.linalg.eig(a)
    right = (vectors @ np.diag(np.exp(0.7 * values)) @ np.linalg.inv(vectors)).real

    def field(t, state):
        return {"columns": tf.matmul(tf.constant(a), state["columns"])}

    start = {"columns": tf.eye(2, dtype=tf.float64)}
    states = solvers.get("dopri5", rtol=1e-8, atol=1e-8).solve(field, 0.3, start, [0.3, 1.0]).states["columns"]
    np.testing.assert_allclose(states[0], np.eye(2))
    np.testing.assert_allclose(states[1], right, atol=1e-6)


def test_a_solve_that_fails_in_a_graph_of_tensorflow_1_says_for_how_many_and_why():
    rates = np.array([[0.0], [3.0], [3000.0]])
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        results = solvers.Dopri5(rtol=1e-6, max_num_steps=30).solve(
            lambda t, y, c: -c * y, 0.0, tf.ones_like(rates), [1.0], batch_ndims=1, constants={"c": tf.constant(rates)}
        )
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"failed for\] \[1\] \[of\] \[3\] \[samples:\] \[1\]"):
            session.run(results.states)
