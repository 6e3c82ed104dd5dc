"""What a solve is given wrongly is one line; what it may be given is computed with."""

import numpy as np
import pytest
import tensorflow as tf

from tfode_adv import solvers
from tfode_adv.errors import UsageError
from tfode_adv.layers import ODEBlock


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
