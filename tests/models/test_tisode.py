"""TisODE and its two companions: the program's sizes, its solver, and its dynamics by hand."""

import numpy as np
import pytest
import tensorflow as tf

import tfode_adv as ta
from tests.interop.torch_states import tisode_state
from tfode_adv.errors import UsageError


@pytest.mark.parametrize(
    ("name", "parameters", "steps"),
    [("tisode", 141130, 20), ("tisode_odenet", 142410, 10), ("tisode_cnn", 141130, None)],
)
def test_size_and_solver_are_the_program_s(name, parameters, steps):
    model = ta.models.build(name)
    assert model.count_params() == parameters
    assert [(block.solver, block.num_steps) for block in ta.models.ode_blocks(model)] == [("euler", steps)] * bool(
        steps
    )


def test_another_solver_may_be_asked_for():
    model = ta.models.build("tisode", filters=4, input_shape=(8, 8, 1), solver="dopri5", tol=1e-4)
    (block,) = ta.models.ode_blocks(model)
    assert (block.solver, block.tol) == ("dopri5", 1e-4)


@pytest.mark.parametrize("name", ["tisode", "tisode_odenet", "tisode_cnn"])
def test_a_checkpoint_s_logits_are_those_computed_by_hand(name):
    state = tisode_state(name)
    model = ta.interop.build_from_state(name, state, input_shape=(8, 9, 1))
    x = np.random.default_rng(1).random((2, 8, 9, 1), np.float32)
    # Float32 throughout, 20 steps.
    np.testing.assert_allclose(model(x), by_hand(name, state, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sees_time", [False, True])
def test_dynamics_have_no_falling_part_and_see_the_time_if_asked_to(sees_time):
    dynamics = ta.layers.PostNormDynamics(4, time=sees_time)
    h = tf.random.stateless_normal([2, 5, 5, 4], seed=[1, 2])
    early, late = (dynamics(tf.constant(time), h) for time in (0.0, 5.0))
    assert tf.reduce_min(early) >= 0 and early.shape == h.shape
    assert bool(tf.reduce_all(early == late)) is not sees_time
    assert dynamics.compute_output_shape((), h.shape) == h.shape


@pytest.mark.parametrize("layer", [ta.layers.PostNormDynamics, ta.layers.PostNormBlock])
def test_channels_must_fall_into_groups(layer):
    with pytest.raises(UsageError, match="filters is 6, but must be divisible into 4 groups"):
        layer(6, groups=4)


def by_hand(name, state, x):
    """The network in the program's own terms: padding, normalisation and Euler's steps written out."""
    if name == "tisode":
        stem, body, head = "downsampling_layers.", "feature_layers.", "fc_layers.2."
    else:
        stem, body, head = "net.", "net.6.odefunc." if name == "tisode_odenet" else "net.6.", "net.9."
    h = norm(conv(x, state[f"{stem}0.weight"], state[f"{stem}0.bias"]), state, f"{stem}1.")
    h = norm(conv(h, state[f"{stem}3.weight"], state[f"{stem}3.bias"], 2, 1), state, f"{stem}4.")
    steps = {"tisode": 20, "tisode_odenet": 10, "tisode_cnn": 1}[name]
    for step in range(steps):
        time = step / steps if name == "tisode_odenet" else None
        h = h + dynamics_by_hand(state, body, h, time) / steps
    return h.mean((1, 2)) @ state[f"{head}weight"].T + state[f"{head}bias"]


def dynamics_by_hand(state, body, h, time):
    for number in (1, 2):
        if time is None:
            h = conv(h, state[f"{body}conv{number}.weight"], 0.0, 1, 1)
        else:
            h = np.concatenate([np.full_like(h[..., :1], time), h], axis=-1)
            layer = f"{body}conv{number}._layer."
            h = conv(h, state[f"{layer}weight"], state[f"{layer}bias"], 1, 1)
        h = norm(h, state, f"{body}norm{number}.")
    return h


def conv(x, kernel, bias, strides=1, padding=0):
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    size = kernel.shape[2]
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))[:, ::strides, ::strides]
    return np.einsum("bhwcij,ocij->bhwo", windows, kernel) + bias


def norm(x, state, layer):
    """A group a channel: there are fewer than 32 channels here."""
    x = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
    return np.maximum(x * state[f"{layer}weight"] + state[f"{layer}bias"], 0)
