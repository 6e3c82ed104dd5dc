"""What a solve is given wrongly is one line; what it may be given is computed with."""

import numpy as np
import pytest
import tensorflow as tf

from tfode_adv import solvers
from tfode_adv.errors import UsageError
from tfode_adv.layers import ODEBlock, solver_settings


def solve(field=lambda t, y: tf.nest.map_structure(tf.negative, y), y0=((1.0,), (2.0,)), times=(1.0,), **options):
    y0 = tf.nest.map_structure(tf.constant, y0) if isinstance(y0, dict) else tf.constant(y0)
    return solvers.get("euler", **options).solve(field, 0.0, y0, list(times), batch_ndims=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"field": lambda t, y: None}, "the dynamics returned None, but must return a slope"),
        ({"times": [float("inf")]}, r"solution_times must be finite, but are \[0.0, inf\]"),
        ({"max_num_steps": 2**31}, "max_num_steps is 2147483648, but must be at least 1 and at most 2.14748e"),
        ({"y0": {"a": np.ones([2, 1]), "b": np.ones([3, 1])}}, r"components of unlike batches, \(2,\) and \(3,\)"),
    ],
)
def test_wrong_arguments_are_one_line(options, words):
    with pytest.raises(UsageError, match=words) as error:
        solve(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["final_time", "tol", "num_steps", "max_num_steps"])
def test_a_block_takes_no_variable_for_a_number(name):
    with pytest.raises(UsageError, match=f"{name} is <.*Variable.*, but must be a number"):
        ODEBlock(lambda h: -h, **{name: tf.Variable(1.0)})


def test_time_has_the_widest_type_of_a_state():
    seen = []
    state = {"a": np.ones([2, 1], np.float32), "b": np.ones([2, 1], np.float64)}
    solve(lambda t, y: seen.append(t.dtype) or y, state)
    assert set(seen) == {tf.float64}


def test_a_complex_state_passes_a_block_whole():
    """h' = i h: after pi / 2 one is i."""
    block = ODEBlock(lambda h: 1j * h, solver="rk4", num_steps=16, final_time=np.pi / 2)
    np.testing.assert_allclose(block(tf.ones([2, 1], tf.complex64)), np.full([2, 1], 1j), atol=1e-4)


@pytest.mark.parametrize(
    ("slope", "words"),
    [
        (lambda h: tf.cast(h, tf.int32), "returned dtype int32 for a state of float32, but a slope must be floating"),
        (lambda h: tf.complex(h, h), "returned dtype complex64 for a state of float32"),
    ],
)
def test_a_slope_that_would_lose_a_part_is_refused(slope, words):
    with pytest.raises(UsageError, match=words):
        ODEBlock(slope, solver="euler")(tf.ones([2, 1]))


@pytest.mark.parametrize("tol", [-0.1, [0.1, float("nan")]])
def test_a_tensor_is_checked_as_a_number_is(tol):
    with pytest.raises(UsageError, match="tol is (-0.1|nan)"), solver_settings(tol=tf.constant(tol)):
        pass


def test_whole_numbers_that_are_no_tensor_are_a_slope():
    np.testing.assert_allclose(ODEBlock(lambda h: np.array([[1, 2]]), solver="euler")(tf.zeros([1, 2])), [[1, 2]])


def test_a_vectorised_map_is_refused():
    block = ODEBlock(lambda h: -h, solver="euler")
    with pytest.raises(Exception, match="inside tf.vectorized_map is not implemented.*the whole batch at once"):
        tf.vectorized_map(lambda row: block(row[tf.newaxis])[0], tf.ones([2, 1]))


def run(name, value):
    given = {"initial_time": 0.0, "initial_state": tf.ones([1]), "solution_times": [1.0]}
    options = {name: value} if name not in given else {}
    given |= {name: value} if name in given else {}
    return solvers.get("heun2", **options).solve(lambda t, y: -y, **given).states


@pytest.mark.parametrize("make", [tf.Variable, tf.constant], ids=["variable", "tensor"])
@pytest.mark.parametrize("name", ["rtol", "atol", "first_step_size", "initial_time", "solution_times"])
def test_what_a_tape_follows_in_vain_is_refused(name, make):
    """Its gradient would be None without a word."""
    value = make([1.0] if name == "solution_times" else 0.1)
    words = pytest.raises(UsageError, match=f"a GradientTape follows {name}, but a solve has no gradient to it: .*stop")
    with words as error, tf.GradientTape() as tape:
        tape.watch(value)
        run(name, value)
    assert "\n" not in str(error.value)


def test_what_no_tape_follows_may_be_a_tensor_or_a_variable():
    still = tf.Variable(0.1, trainable=False)
    with tf.GradientTape():
        run("rtol", still), run("rtol", tf.constant(0.1)), run("rtol", tf.stop_gradient(tf.Variable(0.1)))
    run("rtol", tf.Variable(0.1))


@pytest.mark.parametrize("solver", ["heun2", "tfp"])
def test_a_block_refuses_what_a_tape_follows(solver):
    block, tol = ODEBlock(lambda h: -h, solver=solver), tf.Variable(0.1)
    with tf.GradientTape(), pytest.raises(UsageError, match="a GradientTape follows tol"), solver_settings(tol=tol):
        block(tf.ones([1, 1]))
    with tf.GradientTape(), pytest.raises(UsageError, match="a GradientTape follows solution_times"):
        block.trajectory(tf.ones([1, 1]), tf.Variable([0.5, 1.0]))


def test_times_known_at_run_time_only_are_finite():
    block = ODEBlock(lambda h: -h, solver="heun2")
    at = tf.function(block.trajectory, autograph=False)
    with pytest.raises(tf.errors.InvalidArgumentError, match="solution_times must be finite, but are.*0 1 inf"):
        at(tf.ones([1, 1]), tf.constant([1.0, np.inf]))
    np.testing.assert_allclose(at(tf.ones([1, 1]), tf.constant([0.0, 1.0]))[:, 0, 0], [1, np.exp(-1)], rtol=1e-2)


def test_batches_known_at_run_time_only_are_alike():
    block = ODEBlock(lambda h: {"a": -h["a"], "b": -h["b"]}, solver="euler")
    spec = {name: tf.TensorSpec([None, 1]) for name in "ab"}
    end = tf.function(block, autograph=False, input_signature=[spec])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"components of unlike batches.*\[2\].*\[3\]"):
        end({"a": tf.ones([2, 1]), "b": tf.ones([3, 1])})
    np.testing.assert_allclose(end({"a": tf.ones([2, 1]), "b": tf.ones([2, 1])})["b"], 0, atol=1e-6)
