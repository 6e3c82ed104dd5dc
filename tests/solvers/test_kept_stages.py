"""Kept stages: the same gradient as recomputed ones, without evaluating anything twice.

Eager, but where compiling matters: a few steps take less time than a trace.
"""

import numpy as np
import pytest
import tensorflow as tf

from tests.solvers import test_gradients
from tfode_adv import solvers
from tfode_adv.errors import UsageError
from tfode_adv.solvers import residual_store, step_store

# One of each kind: the last slope handed on, not handed on, fixed steps. (The tests below take bosh3.)
METHODS = ("dopri5", "heun2", "midpoint")


def settings(name, tol=1e-3):
    return {"rtol": tol, "atol": tol} if solvers.is_adaptive(name) else {"num_steps": 5}


def assert_equal(found, expected, tolerance=1e-12):
    for a, b in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.fixture
def groups_kept(monkeypatch):
    """Whether each group of evaluations written was kept, the initial slope's first where there is one."""
    flags, write = [], residual_store.ResidualStore.write

    def noting(self, group, residuals, accepted):
        result = write(self, group, residuals, accepted)
        tf.py_function(lambda flag: flags.append(bool(flag)), [result.is_kept(group)], [])
        return result

    monkeypatch.setattr(residual_store.ResidualStore, "write", noting)
    return flags


@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_is_that_of_recomputed_stages(name):
    """Of the state, a variable and a constant, at several times; compiled against eager, which traces nothing."""
    cotangent = np.random.default_rng(4).normal(size=(3, 3, 6))
    weights = tf.Variable(test_gradients.WEIGHTS)

    def gradients(checkpoint, y0, gain):
        solver = solvers.get(name, checkpoint=checkpoint, **settings(name))
        field = test_gradients.make_field(weights)
        with tf.GradientTape() as tape:
            tape.watch([y0, gain])
            results = solver.solve(field, 0.0, y0, [0.0, 0.4, 1.3], batch_ndims=1, constants={"gain": gain})
            loss = tf.reduce_sum(results.states * cotangent)
        return tape.gradient(loss, [y0, weights, gain])

    arguments = tf.constant(test_gradients.Y0), tf.constant(0.8, tf.float64)
    kept_stages = tf.function(gradients, autograph=False)("none", *arguments)
    assert_equal(kept_stages, gradients("steps", *arguments))


def solve_and_differentiate(field, y0, checkpoint, gain=1.0, times=(1.0,), name="bosh3", compiled=False, **options):
    solver = solvers.get(name, checkpoint=checkpoint, **(settings(name) | options), on_failure="status")

    def run(y0, gain):
        with tf.GradientTape() as tape:
            tape.watch([y0, gain])
            results = solver.solve(field, 0.0, y0, list(times), batch_ndims=1, constants={"gain": gain})
            loss = tf.add_n([tf.reduce_sum(tf.sin(s)) for s in tf.nest.flatten(results.states)])
        of_samples = results.diagnostics
        counts = of_samples.num_accepted_steps, of_samples.num_rejected_steps, of_samples.status
        return tf.nest.flatten(tape.gradient(loss, [y0, gain])), counts

    run = tf.function(run, autograph=False) if compiled else run
    return run(y0, tf.constant(gain, tf.float64))


def per_sample_rates(t, y, gain):
    """y = (value, rate): samples of unlike speeds, whatever order or number they come in."""
    value, rate = y
    return -gain * rate * value * (1 + value * value) + tf.sin(3 * t), 0 * rate


@pytest.mark.parametrize("name", ["bosh3", "heun2"])
def test_samples_of_unlike_step_counts_and_rejections(name, groups_kept):
    rates = [[0.1], [1.0], [3.0], [5.0], [20.0]]
    y0 = tf.constant([[1.0], [-2.0], [0.5], [2.0], [1.5]], tf.float64), tf.constant(rates, tf.float64)
    options = {"name": name, "first_step_size": 0.2, "times": (0.3, 0.55, 1.0), "rtol": 3e-2, "atol": 3e-2}
    found, (accepted, rejected, _) = solve_and_differentiate(per_sample_rates, y0, "none", **options)
    expected, _ = solve_and_differentiate(per_sample_rates, y0, "steps", **options)
    assert len(set(accepted.numpy())) > 2
    assert len(set(rejected.numpy())) > 1
    assert_equal(found, expected)
    # Some iterations were kept and some recomputed, so that slopes were handed on between the two.
    assert set(groups_kept) == {True, False}


@pytest.mark.parametrize("name", ["bosh3", "heun2"])
def test_a_failing_sample_spoils_no_gradient(name, groups_kept):
    def explosive(t, y, gain):
        value, rate = y
        # Its slope overflows for the sample of large rate, and is 0 * infinity to the gain.
        return gain * tf.exp(rate * value) - gain, 0 * rate * t

    rates = [[0.1], [0.2], [0.3], [-0.4], [500.0]]
    y0 = tf.fill([5, 1], tf.constant(0.5, tf.float64)), tf.constant(rates, tf.float64)
    # At the shortest step nothing is rejected, so that the sample fails soon.
    options = {"name": name, "first_step_size": 0.1, "min_step": 1e-2}
    found, (_, _, status) = solve_and_differentiate(explosive, y0, "none", **options)
    expected, _ = solve_and_differentiate(explosive, y0, "steps", **options)
    assert (status.numpy() == 0).tolist() == [True] * 4 + [False]
    assert any(groups_kept)
    assert all(np.isfinite(g).all() for g in found)
    assert_equal(found, expected)


@pytest.mark.parametrize("batch_ndims", [None, 0, 1])
def test_nested_states_in_batches_of_any_kind(batch_ndims):
    random = np.random.default_rng(1)
    y0 = {"a": tf.constant(random.normal(size=(3, 2))), "b": tf.constant(random.normal(size=(3, 2, 2)))}
    weight = tf.Variable(random.normal(size=(2, 2)))

    def field(t, y, shift):
        a, b = y["a"], y["b"]
        t = tf.reshape(t, [-1, 1]) if t.shape.rank else t
        return {"a": tf.tanh(tf.matmul(a, weight)) + t + shift["c"], "b": tf.sin(b) * a[..., tf.newaxis]}

    def gradients(checkpoint):
        solver = solvers.get("bosh3", rtol=1e-3, atol=1e-3, checkpoint=checkpoint)

        def run(y0, c):
            with tf.GradientTape() as tape:
                tape.watch([y0, c])
                states = solver.solve(
                    field, 0.0, y0, [0.5, 1.0], batch_ndims=batch_ndims, constants={"shift": {"c": c}}
                ).states
                loss = tf.add_n([tf.reduce_sum(s**2) for s in tf.nest.flatten(states)])
            return tf.nest.flatten(tape.gradient(loss, [y0, weight, c]))

        return run(y0, tf.constant(0.3, tf.float64))

    assert_equal(gradients("none"), gradients("steps"))


def counting(count):
    def field(t, y):
        with tf.control_dependencies([count.assign_add(1)]):
            return -y * tf.cos(tf.identity(t))

    return field


@pytest.mark.parametrize("name", ["dopri5", "heun2"])
def test_nothing_is_evaluated_twice(name):
    evaluations = {}
    for checkpoint in ("none", "steps"):
        count = tf.Variable(0, trainable=False)
        solver = solvers.get(name, checkpoint=checkpoint, **settings(name))

        y0 = tf.constant([[1.0]], tf.float64)
        with tf.GradientTape() as tape:
            tape.watch(y0)
            results = solver.solve(counting(count), 0.0, y0, [1.0], batch_ndims=1)
        assert tape.gradient(results.states, y0) is not None
        evaluations[checkpoint] = int(count.numpy()) - int(results.diagnostics.num_ode_fn_evaluations[0])
    assert evaluations["none"] == 0
    assert evaluations["steps"] > 0


@pytest.mark.parametrize("watched", ["input", "weight"])
def test_nothing_is_kept_for_weights_that_no_tape_watches(watched, monkeypatch):
    """An attack's tape watches the image alone: weights then leave no residuals, and no gradient."""
    splits, empty = [], residual_store.ResidualStore.empty.__func__
    monkeypatch.setattr(
        residual_store.ResidualStore,
        "empty",
        classmethod(lambda cls, split, *a: splits.append(split) or empty(cls, split, *a)),
    )
    weight = tf.Variable(np.eye(6))

    with tf.GradientTape(watch_accessed_variables=watched == "weight") as tape:
        y0 = tf.constant(test_gradients.Y0)
        tape.watch(y0)
        solver = solvers.get("dopri5", rtol=1e-3, atol=1e-3, checkpoint="none")
        solver.solve(lambda t, y: tf.sin(tf.matmul(y, weight)), 0.0, y0, [1.0], batch_ndims=1)
    assert [s.to_parameters for s in splits] == [watched == "weight"]


def test_a_forward_pass_alone_keeps_nothing(monkeypatch):
    monkeypatch.setattr(residual_store.ResidualStore, "empty", lambda *_: pytest.fail("kept without a tape"))
    solver = solvers.get("dopri5", checkpoint="none")
    solve = tf.function(lambda y: solver.solve(lambda t, y: -y, 0.0, y, [1.0], batch_ndims=1).states, autograph=False)
    assert solve(tf.ones([2, 1])).shape == (1, 2, 1)


def test_auto_keeps_as_much_as_it_may(groups_kept):
    y0 = tf.constant(test_gradients.Y0), tf.constant([[1.0]] * 3, tf.float64)
    sizes, found = {}, {}
    for limit in (2_000, 2**31):
        groups_kept.clear()
        gradient = solvers.Backprop(max_bytes=limit)
        given = {"name": "heun2", "compiled": True, "gradient": gradient}
        found[limit], _ = solve_and_differentiate(per_sample_rates, y0, "auto", **given)
        sizes[limit] = sum(groups_kept)
    assert 0 < sizes[2_000] < sizes[2**31]
    assert_equal(found[2_000], found[2**31])
    with pytest.raises(UsageError, match="max_bytes is -1"):
        solvers.Backprop(max_bytes=-1)


def test_gradients_outside_the_compiled_function_and_eager_ones():
    y0 = tf.constant(test_gradients.Y0)
    found = []
    for checkpoint, compiled in (("none", True), ("none", False), ("steps", False)):
        solver = solvers.get("bosh3", rtol=1e-3, atol=1e-3, checkpoint=checkpoint)

        def solve(y, solver=solver):
            return solver.solve(lambda t, y: tf.sin(y) * t, 0.0, y, [1.0], batch_ndims=1).states

        with tf.GradientTape() as tape:
            tape.watch(y0)
            states = (tf.function(solve, autograph=False) if compiled else solve)(y0)
        found.append(tape.gradient(states, y0))
    assert_equal(found[0], found[2])
    assert_equal(found[1], found[2])


@pytest.mark.parametrize("checkpoint", ["none", "auto"])
def test_a_linear_dynamics_leaves_nothing_to_keep(checkpoint):
    y0, gain = tf.constant([[1.0], [2.0]], tf.float64), 1.0
    options = {"name": "midpoint", "gain": gain, "compiled": True}
    found, _ = solve_and_differentiate(lambda t, y, gain: -y + 0 * gain, y0, checkpoint, **options)
    expected, _ = solve_and_differentiate(lambda t, y, gain: -y + 0 * gain, y0, "steps", name="midpoint")
    assert_equal(found, expected)
    solver = solvers.get("midpoint", num_steps=5, checkpoint=checkpoint)

    @tf.function(autograph=False)
    def swing(pair):
        with tf.GradientTape() as tape:
            tape.watch(pair)
            states = solver.solve(lambda t, s: (s[1], -s[0]), 0.0, pair, [1.0], batch_ndims=1).states
        return tape.gradient(states[0], pair)

    # The derivative of a rotation by one radian, to the method's error.
    to_a, to_b = swing((y0, y0))
    np.testing.assert_allclose([to_a[0, 0], to_b[0, 0]], [np.cos(1), np.sin(1)], atol=1e-2)


def test_no_samples_no_trouble():
    found, _ = solve_and_differentiate(lambda t, y, gain: -gain * y, tf.zeros([0, 3], tf.float64), "none")
    assert found[0].shape == (0, 3)
    assert found[1] == 0


def test_what_cannot_be_kept_is_said():
    def looping(t, y):
        return tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, tf.sin(y)), (0, y))[1]

    def run(checkpoint, field, **options):
        solver = solvers.get("rk4", num_steps=3, checkpoint=checkpoint)

        def gradient(y0):
            with tf.GradientTape() as tape:
                tape.watch(y0)
                states = solver.solve(field, 0.0, y0, [1.0], batch_ndims=1).states
            return tape.gradient(states, y0)

        return tf.function(gradient, autograph=False, **options)(tf.ones([2, 1]))

    with pytest.raises(UsageError, match="loops or branches"):
        run("none", looping)
    assert_equal(run("auto", looping), run("steps", looping), 1e-6)
    with pytest.raises(UsageError, match="jit_compile"):
        run("none", lambda t, y: -y, jit_compile=True)
    assert run("auto", lambda t, y: -y, jit_compile=True).shape == (2, 1)


def test_the_same_function_twice_on_large_states():
    """TensorFlow's graph optimisers break sums in loops, but only of large tensors and in the second call."""
    kernel = tf.Variable(tf.random.stateless_normal([3, 3, 64, 64], [0, 1]) * 0.02)

    @tf.function(autograph=False)
    def run(y0):
        solver = solvers.get("dopri5", rtol=1e-1, atol=1e-1)
        with tf.GradientTape() as tape:
            tape.watch(y0)
            states = solver.solve(
                lambda t, y: tf.tanh(tf.nn.conv2d(y, kernel, 1, "SAME")), 0.0, y0, [1.0], batch_ndims=1
            ).states
        return tape.gradient(states, [y0, kernel])

    y0 = tf.random.stateless_normal([128, 14, 14, 64], [0, 2])
    assert_equal(run(y0), run(y0), 1e-4)


def bytes_recorded(monkeypatch, num_steps, **options):
    """What a solve of an 8,000-byte state leaves in memory for its backward pass."""
    recorded, having = [], step_store.StepStore.having

    def noting(self, variables, count=None):
        store = having(self, variables, count)
        if count is not None:
            arrays = [[a.read(i) for i in range(int(count))] for a in store.arrays.y]
            recorded.append(sum(x.numpy().nbytes for x in tf.nest.flatten(arrays)))
            recorded.append(int(store.kept.bytes) if store.kept else 0)
        return store

    monkeypatch.setattr(step_store.StepStore, "having", noting)
    y0 = tf.ones([10, 100], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(y0)
        solver = solvers.get("rk4", num_steps=num_steps, **options)
        states = solver.solve(lambda t, y: tf.sin(y), 0.0, y0, [1.0], batch_ndims=1).states
    assert tape.gradient(states, y0) is not None
    monkeypatch.undo()
    return recorded


def test_memory_over_the_steps(monkeypatch):
    state = 8_000
    for num_steps in (4, 16):
        assert bytes_recorded(monkeypatch, num_steps, gradient="adjoint") == []
        assert bytes_recorded(monkeypatch, num_steps, checkpoint="steps") == [num_steps * state, 0]
        # The derivative of the sine needs its argument, once a stage.
        assert bytes_recorded(monkeypatch, num_steps, checkpoint="none") == [num_steps * state, 4 * num_steps * state]
