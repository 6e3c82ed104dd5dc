"""Gradients of a solve: backprop is that of the fixed grid, adjoint converges to it, both reach everything."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests.solvers.problems import decay
from tfode_adv import solvers

RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.normal(size=(6, 6))
Y0 = RANDOM.normal(size=(3, 6))
COTANGENT = RANDOM.normal(size=(2, 3, 6))
TIMES = [0.4, 1.3]


def make_field(matrix):
    return lambda t, y, gain: gain * tf.tanh(tf.matmul(y, matrix)) + 0.2 * t * y


def loss_of(solver, matrix, y0, gain, times=TIMES):
    results = solver.solve(make_field(matrix), 0.0, y0, times, batch_ndims=1, constants={"gain": gain})
    return tf.reduce_sum(results.states * COTANGENT[-len(times) :])


def gradients(solver, times=TIMES):
    """Of the state, of a variable the dynamics reads, and of a constant. Eager: a few steps take less than a trace."""
    variable, y0, gain = tf.Variable(WEIGHTS), tf.constant(Y0), tf.constant(0.8, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch([y0, gain])
        loss = loss_of(solver, variable, y0, gain, times)
    return [g.numpy() for g in tape.gradient(loss, [y0, variable, gain])]


def along(solver, directions, step):
    """Central differences of the loss along `directions`, perturbations of the same three."""

    def at(direction, sign):
        y0, matrix, gain = (a + sign * step * d for a, d in zip((Y0, WEIGHTS, 0.8), direction, strict=True))
        return float(loss_of(solver, tf.constant(matrix), tf.constant(y0), tf.constant(gain, tf.float64)))

    return [(at(d, 1) - at(d, -1)) / (2 * step) for d in directions]


def direction(seed):
    random = np.random.default_rng(seed)
    return random.normal(size=Y0.shape), random.normal(size=WEIGHTS.shape), random.normal()


def dot(a, b):
    return sum(np.sum(x * y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", ["euler", "midpoint", "rk4", "kutta38"])
def test_fixed_methods_have_the_exact_gradient(name):
    solver = solvers.get(name, num_steps=5)
    directions = [direction(1), direction(2)]
    found = gradients(solver)
    assert [dot(found, d) for d in directions] == pytest.approx(along(solver, directions, 1e-5), rel=1e-6)


@pytest.mark.parametrize(("name", "tol"), [("dopri5", 1e-2), ("bosh3", 1e-3), ("heun2", 1e-2)])
def test_backprop_follows_finite_differences(name, tol):
    # The step sizes' own derivative is left out: agreement to the tolerance, not to the last digit.
    solver = solvers.get(name, rtol=tol, atol=tol)
    found = gradients(solver)
    directions = [direction(2), direction(3)]
    for along_it, difference in zip(directions, along(solver, directions, 1e-6), strict=True):
        scale = np.sqrt(dot(found, found) * dot(along_it, along_it))
        assert abs(dot(found, along_it) - difference) < 0.05 * scale


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dopri5", {}),
        ("dopri5", {"endpoint": "clip"}),
        ("bosh3", {"controller": "pi"}),
        ("heun2", {"first_step_size": 0.9}),  # the first trial is rejected
        ("heun2", {"first_step_size": 5.0, "endpoint": "clip"}),  # clipped, then rejected
    ],
)
def test_backprop_steps_is_the_derivative_of_what_was_computed(name, options):
    solver = solvers.get(name, rtol=3e-2, atol=3e-2, gradient="backprop_steps", **options)
    directions = [direction(2), direction(3)]
    found = gradients(solver)
    assert [dot(found, d) for d in directions] == pytest.approx(along(solver, directions, 1e-6), rel=1e-6)
    held = gradients(solvers.get(name, rtol=3e-2, atol=3e-2, **options))
    assert abs(dot(held, directions[0]) - dot(found, directions[0])) > 1e-4


def test_backprop_steps_of_a_stiff_solve_is_the_derivative_of_its_error():
    """y' = -20 y to 1: what is left of y is the solve's error, and its derivative is not that of exp(-20)."""
    apart = 1e-7
    y0 = tf.constant([[1.0], [1 + apart], [1 - apart]], tf.float64)

    @tf.function(autograph=False)
    def run(gradient):
        solver = solvers.get("bosh3", rtol=1e-3, atol=1e-3, endpoint="clip", gradient=gradient)
        with tf.GradientTape() as tape:
            tape.watch(y0)
            y = solver.solve(lambda t, y: -20 * y, 0.0, y0, [1.0], batch_ndims=1).states[0]
        return y[:, 0], tape.gradient(y, y0)[0, 0]

    y, found = run("backprop_steps")
    assert found.numpy() == pytest.approx((y[1] - y[2]).numpy() / (2 * apart), rel=1e-5)
    assert abs(found) > 1e-3 > abs(run("backprop")[1])


def test_backprop_steps_of_fixed_steps_is_backprop():
    both = [gradients(solvers.get("rk4", num_steps=3, gradient=g)) for g in ("backprop", "backprop_steps")]
    for a, b in zip(*both, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("gradient", ["backprop", "backprop_steps"])
def test_neighbours_do_not_matter_to_a_gradient(gradient):
    """Neither one that explodes nor one at rest, where the error is exactly zero."""
    solver = solvers.get("heun2", rtol=1e-2, atol=1e-2, gradient=gradient, max_num_steps=30, on_failure="status")

    def gradient_of(y0):
        rate = tf.Variable(1.0, dtype=tf.float64)
        y0 = tf.constant(y0, tf.float64)
        with tf.GradientTape() as tape:
            tape.watch(y0)
            results = solver.solve(lambda t, y: rate * y * y * tf.cos(t), 0.0, y0, [0.5, 1.5], batch_ndims=1)
        return results.diagnostics.status, *tape.gradient(results.states, [y0, rate])

    status, alone, to_rate = gradient_of([[0.3, -0.4]])
    assert status.numpy().tolist() == [0]
    status, among, to_rate_among = gradient_of([[0.0, 0.0], [0.3, -0.4], [40.0, 3.0], [1e200, 1.0]])
    assert (status.numpy() == 0).tolist() == [True, True, False, False]
    np.testing.assert_allclose(among[1], alone[0], rtol=1e-12)
    np.testing.assert_array_equal(among[2:], 0)
    np.testing.assert_allclose(to_rate_among, to_rate, rtol=1e-12)
    np.testing.assert_allclose(among[0], 2.0)


@pytest.mark.parametrize("endpoint", ["interpolate", "clip"])
def test_backprop_is_the_gradient_of_the_replayed_grid(endpoint):
    """The accepted steps of one sample, replayed by hand on a tape, step sizes constant."""
    tol, y0 = 1e-4, tf.constant(Y0[:1])
    solver = solvers.get("dopri5", rtol=tol, atol=tol, endpoint=endpoint)
    field, end = make_field(tf.constant(WEIGHTS)), 1.3

    def slope(t, y):
        return field(tf.reshape(t, [-1, 1]), y, tf.constant(0.8, tf.float64))

    chosen = solver.solve(slope, 0.0, y0, tfp.math.ode.ChosenBySolver(end), batch_ndims=1)
    grid = chosen.times.numpy()
    assert len(grid) > 3
    tableau = solvers.METHODS["dopri5"].tableau

    def step(t, h, y):
        slopes = []
        for a, c in zip(tableau.a, tableau.c, strict=True):
            state = y + h * sum((w * k for w, k in zip(a, slopes, strict=True)), tf.zeros_like(y))
            slopes.append(slope(tf.constant([t + c * h], tf.float64), state))
        return state, slopes

    with tf.GradientTape(persistent=True) as tape:
        tape.watch(y0)
        state = y0
        for t, t_next in zip(grid[:-2], grid[1:-1], strict=True):
            state, _ = step(t, t_next - t, state)
        # The last step's own size, which an interpolated solve does not clip.
        last = solver.solve(slope, 0.0, y0, [end], batch_ndims=1).diagnostics.final_time.numpy()[0] - grid[-2]
        _, slopes = step(grid[-2], last, state)
        theta = (end - grid[-2]) / last
        weights = [sum(p * theta ** (i + 1) for i, p in enumerate(row)) for row in tableau.dense]
        replayed = tf.reduce_sum(
            (state + last * sum(w * k for w, k in zip(weights, slopes, strict=True))) * COTANGENT[1, :1]
        )
        solved = tf.reduce_sum(solver.solve(slope, 0.0, y0, [end], batch_ndims=1).states * COTANGENT[1, :1])
    np.testing.assert_allclose(solved, replayed, rtol=1e-12)
    np.testing.assert_allclose(tape.gradient(solved, y0), tape.gradient(replayed, y0), rtol=1e-6, atol=1e-12)


def test_adjoint_converges_to_backprop():
    def at_tolerances(gradient):
        @tf.function(autograph=False)
        def run(tol, y0, gain):
            solver = solvers.get("bosh3", rtol=tol, atol=tol, gradient=gradient)
            with tf.GradientTape() as tape:
                tape.watch([y0, gain])
                loss = loss_of(solver, tf.constant(WEIGHTS), y0, gain)
            return tape.gradient(loss, [y0, gain])

        arguments = tf.constant(Y0), tf.constant(0.8, tf.float64)
        return [run(tf.constant(tol, tf.float64), *arguments) for tol in (1e-3, 1e-6, 1e-9)]

    pairs = zip(at_tolerances("backprop"), at_tolerances("adjoint"), strict=True)
    distances = [max(np.abs(a - b).max() for a, b in zip(*pair, strict=True)) for pair in pairs]
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 1e-5


def test_adjoint_agrees_with_stock_tfp():
    y0 = tf.constant(Y0)
    found = []
    for solver, batch_ndims in (
        (solvers.get("dopri5", rtol=1e-8, atol=1e-8, gradient="adjoint"), 1),
        (solvers.get("tfp", rtol=1e-8, atol=1e-8), None),
    ):
        variable = tf.Variable(WEIGHTS)
        with tf.GradientTape() as tape:
            tape.watch(y0)
            states = solver.solve(
                lambda t, y, v=variable: tf.tanh(tf.matmul(y, v)), 0.0, y0, TIMES, batch_ndims=batch_ndims
            ).states
            loss = tf.reduce_sum(states * COTANGENT)
        found.append(tape.gradient(loss, [y0, variable]))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_adjoint_takes_its_own_tolerance_and_solver():
    fine = solvers.get("rk4", num_steps=16)
    coarse = {"rtol": 1e-1, "atol": 1e-1, "gradient": "adjoint"}
    exact = gradients(fine)[0]
    own = gradients(solvers.get("dopri5", **coarse))[0]
    helped = gradients(solvers.get("dopri5", make_adjoint_solver_fn=lambda: fine, **coarse))[0]
    assert np.linalg.norm(helped - exact) < np.linalg.norm(own - exact)


def hasty_adjoint(on_failure, jit_compile=None):
    """Gradients to two samples and a weight; of the second sample the adjoint solve runs out of steps."""
    weight = tf.Variable(1.0, dtype=tf.float64)
    hasty = solvers.get("heun2", rtol=1e-3, atol=1e-3, max_num_steps=3)
    options = {"gradient": "adjoint", "make_adjoint_solver_fn": lambda: hasty, "on_gradient_failure": on_failure}
    solver = solvers.get("heun2", rtol=1e-3, atol=1e-3, **options)

    def run(y0):
        with tf.GradientTape() as tape:
            tape.watch(y0)
            states = solver.solve(lambda t, y: -weight * y * y * y, 0.0, y0, [1.0], batch_ndims=1).states
        return tape.gradient(states, [y0, weight])

    run = run if jit_compile is None else tf.function(run, autograph=False, jit_compile=jit_compile)
    return run(tf.constant([[0.1], [3.0]], tf.float64))


def test_a_failed_adjoint_solve_does_not_look_like_a_gradient():
    """What the other samples add to a weight's is finite, and would be taken for the whole."""
    to_state, to_weight = hasty_adjoint("status")
    assert to_state[0] > 0 and to_state[1] == 0
    assert np.isnan(to_weight)
    with pytest.raises(solvers.SolveError, match="adjoint solve failed for 1 of 2"):
        hasty_adjoint("raise")
    with pytest.raises(tf.errors.InvalidArgumentError, match="adjoint solve failed for"):
        hasty_adjoint("raise", jit_compile=False)
    # XLA raises nothing.
    to_state, to_weight = hasty_adjoint("raise", jit_compile=True)
    assert to_state[0] > 0 and np.isnan(to_state[1])
    assert np.isnan(to_weight)


@pytest.mark.parametrize(
    ("gradient", "compiled"), [("backprop", True), ("backprop", False), ("backprop_steps", False), ("adjoint", False)]
)
def test_no_weight_gradient_is_computed_for_the_inputs_gradient(gradient, compiled):
    """Constants that no tape watches ask for none either, and those of whole numbers and truth values have none."""
    asked = tf.Variable(0, trainable=False)
    weight = tf.Variable(np.linspace(0.5, 1.0, 6))

    def field(t, y, shift, power, decaying):
        # Reading the variable through an operation whose gradient tells that it was asked for.
        @tf.custom_gradient
        def spy(w):
            def pull_back(cotangent):
                with tf.control_dependencies([asked.assign_add(1)]):
                    return tf.identity(cotangent)

            return tf.identity(w), pull_back

        slope = spy(tf.convert_to_tensor(weight)) * y ** tf.cast(power, y.dtype)
        return tf.where(decaying, -slope, slope) + shift

    solver = solvers.get("heun2", rtol=1e-3, atol=1e-3, gradient=gradient)
    constants = {"shift": tf.constant(0.0, tf.float64), "power": 1, "decaying": True}

    def gradient_of(what, y0):
        with tf.GradientTape() as tape:
            tape.watch(y0)
            results = solver.solve(field, 0.0, y0, [1.0], batch_ndims=1, constants=constants)
            loss = tf.reduce_sum(results.states)
        return tape.gradient(loss, y0 if what == "input" else weight)

    gradient_of = tf.function(gradient_of, autograph=False) if compiled else gradient_of
    gradient_of("input", tf.constant(Y0))
    assert asked == 0
    found = gradient_of("weight", tf.constant(Y0))
    assert asked > 0
    expected = -np.sum(Y0 * np.exp(-weight.numpy()), axis=0)
    np.testing.assert_allclose(found, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("compiled", [False, True])
def test_second_derivatives_are_refused(compiled):
    y0 = tf.constant([[1.0]])
    solver = solvers.get("heun2", rtol=1e-2, atol=1e-2)

    def second():
        with tf.GradientTape() as outer:
            outer.watch(y0)
            with tf.GradientTape() as inner:
                inner.watch(y0)
                y1 = solver.solve(lambda t, y: y * y, 0.0, y0, [0.2], batch_ndims=1).states
            first = inner.gradient(y1, y0)
        return outer.gradient(first, y0)

    run = tf.function(second, autograph=False) if compiled else second
    with pytest.raises((NotImplementedError, tf.errors.InvalidArgumentError), match="second derivatives"):
        run()


def test_a_coupled_batch_has_the_same_gradient_as_one_sample():
    y0 = tf.constant([1.0, -0.5], tf.float64)
    solver = solvers.get("dopri5", rtol=1e-6, atol=1e-6)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(y0)
        coupled = tf.reduce_sum(solver.solve(decay, 0.0, y0, [1.0]).states)
        alone = tf.reduce_sum(solver.solve(decay, 0.0, y0[None], [1.0], batch_ndims=1).states)
    np.testing.assert_allclose(tape.gradient(coupled, y0), tape.gradient(alone, y0), rtol=1e-10)


@pytest.mark.parametrize("gradient, most", [("backprop", 2), ("adjoint", 2), ("backprop_steps", 1)])
def test_a_compiled_solve_traces_its_dynamics_once_for_all_stages(gradient, most):
    """dopri5 evaluates it in nine places, and the backward pass in seven more: each a trace, it would take seconds."""
    traced = []

    def ode_fn(t, y):
        traced.append(y)
        return -y

    def run(y):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(y)
            solver = solvers.get("dopri5", rtol=1e-3, atol=1e-3, gradient=gradient)
            end = solver.solve(ode_fn, 0.0, y, [1.0], batch_ndims=1).states[-1]
        return end, tape.gradient(end, y)

    compiled = tf.function(run, autograph=False).get_concrete_function(tf.TensorSpec([None, 3]))
    assert len(traced) <= most
    end, derivative = compiled(tf.ones([2, 3]))
    np.testing.assert_allclose(end, np.full([2, 3], np.exp(-1)), rtol=1e-3)
    np.testing.assert_allclose(derivative, np.full([2, 3], np.exp(-1)), rtol=1e-2)
