"""Derivatives of other kinds than one gradient: Jacobians, tapes inside a dynamics, what is refused."""

import numpy as np
import pytest
import tensorflow as tf

from tfode_adv import solvers
from tfode_adv.solvers.custom_gradient import differentiable
from tfode_adv.solvers.pull_back import Gradients
from tfode_adv.tensorflow_internals import recording_stopped

# y' = -y^2 / 2 has y(1) = y0 / (1 + y0 / 2), whose derivative is 1 / (1 + y0 / 2)^2.
Y0 = tf.constant([[1.0, 2.0], [3.0, 0.5]], tf.float64)
RIGHT = 1 / (1 + Y0.numpy() / 2) ** 2


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("midpoint", {"num_steps": 24}),
        ("bosh3", {"rtol": 1e-3, "atol": 1e-3, "gradient": "backprop_steps", "endpoint": "clip"}),
        ("bosh3", {"rtol": 1e-4, "atol": 1e-4, "gradient": "adjoint"}),
    ],
    ids=["backprop", "backprop_steps", "adjoint"],
)
def test_jacobians_with_their_defaults(method, options, compiled):
    solver = solvers.get(method, **options)

    def both(y0):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(y0)
            end = solver.solve(lambda t, y: -y * y / 2, 0.0, y0, [1.0], batch_ndims=1).states[0]
        return tape.jacobian(end, y0), tape.batch_jacobian(end, y0)

    whole, each = (tf.function(both, autograph=False) if compiled else both)(Y0)
    np.testing.assert_allclose(np.reshape(whole, [4, 4]), np.diag(RIGHT.ravel()), atol=1e-3)
    np.testing.assert_allclose(each, [np.diag(row) for row in RIGHT], atol=1e-3)


def test_a_jacobian_to_a_weight():
    rate = tf.Variable(0.5, dtype=tf.float64)
    with tf.GradientTape() as tape:
        end = solvers.get("rk4", num_steps=8).solve(lambda t, y: -rate * y * y, 0.0, Y0, [1.0], batch_ndims=1).states[0]
    np.testing.assert_allclose(tape.jacobian(end, rate), -(Y0**2) * RIGHT, rtol=1e-3)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("gradient", ["backprop", "backprop_steps", "adjoint"])
def test_a_tape_inside_the_dynamics(gradient, compiled):
    """Of the energy H = w q^2 / 2 + p^2 / 2: a turn by sqrt(w), and back in its derivative."""
    weight = tf.Variable(4.0, dtype=tf.float64)
    # Few stages where each is traced, few steps where each is computed.
    method = "bosh3" if compiled else "dopri5"
    solver = solvers.get(method, rtol=1e-6, atol=1e-6, gradient=gradient, endpoint="clip")

    def hamiltonian(t, y):
        with tf.GradientTape() as tape:
            tape.watch(y)
            energy = tf.reduce_sum(weight * y[:, 0] ** 2 + y[:, 1] ** 2) / 2
        slope = tape.gradient(energy, y)
        return tf.stack([slope[:, 1], -slope[:, 0]], 1)

    def run(y0):
        with tf.GradientTape() as tape:
            tape.watch(y0)
            end = solver.solve(hamiltonian, 0.0, y0, [1.0], batch_ndims=1).states[0]
            place = tf.reduce_sum(end[:, 0])
        return end, *tape.gradient(place, [y0, weight])

    end, to_start, to_weight = (tf.function(run, autograph=False) if compiled else run)(
        tf.constant([[1.0, 0.0]], tf.float64)
    )
    np.testing.assert_allclose(end, [[np.cos(2), -2 * np.sin(2)]], atol=1e-4)
    np.testing.assert_allclose(to_start, [[np.cos(2), np.sin(2) / 2]], atol=1e-4)
    np.testing.assert_allclose(to_weight, -np.sin(2) / 4, atol=1e-4)


def test_forward_mode_is_refused_by_its_name():
    words = pytest.raises(NotImplementedError, match="forward-mode .* not implemented: use a GradientTape")
    with words, tf.autodiff.ForwardAccumulator(Y0, tf.ones_like(Y0)):
        solvers.get("euler").solve(lambda t, y: -y, 0.0, Y0, [1.0], batch_ndims=1)


def test_a_persistent_tape_sees_nothing_of_a_backward_pass():
    """TensorFlow would derive each function called in it again and again: minutes of tracing in a compiled loop."""
    seen = []

    def pull_back(cotangents, with_parameters):
        seen.append(recording_stopped())
        return Gradients([2 * c for c in cotangents], [])

    x = tf.ones([1, 1])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        (y,) = differentiable([2 * x], [x], [], [], pull_back)
        assert tape.gradient(y, x) == 2
    assert seen == [True]
