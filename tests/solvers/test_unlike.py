"""Samples of unlike speeds, in batches that lose their finished ones."""

import numpy as np
import pytest
import tensorflow as tf

from tfode_adv import solvers

SPEEDS = np.linspace(0.1, 8.0, 16)


def turning(t, y, gain=1.0):
    """Each sample turns at its own speed, its third entry, with a push of the time's."""
    x, v, speed = tf.unstack(y, axis=-1)
    t = tf.reshape(t, tf.shape(x))
    return tf.stack([gain * speed * v + t, -speed * x, 0 * speed], -1)


def starts():
    return tf.constant(np.stack([np.ones(16), np.zeros(16), SPEEDS], axis=1))


@pytest.mark.parametrize("endpoint", ["interpolate", "clip"])
def test_a_warm_start_is_that_of_the_sample_alone(endpoint):
    """However long its neighbours are integrated after it."""
    solver = solvers.get("heun2", rtol=3e-2, atol=3e-2, endpoint=endpoint)

    def next_step(y0):
        results = solver.solve(turning, 0.0, y0, [1.0], batch_ndims=1)
        return results.solver_internal_state.step_size.numpy(), results.diagnostics.num_accepted_steps.numpy()

    together, accepted = next_step(starts())
    assert len(set(accepted)) > 4
    some = [0, 3, 6, 9, 12, 15]
    np.testing.assert_allclose(together[some], [next_step(starts()[i : i + 1])[0][0] for i in some], rtol=1e-12)


@pytest.mark.parametrize(
    ("gradient", "checkpoint"),
    [("backprop", "steps"), ("backprop", "none"), ("backprop_steps", "steps"), ("adjoint", "steps")],
)
def test_two_batch_dimensions_are_as_good_as_one(gradient, checkpoint):
    """However many samples are left, and whichever took a step."""
    solver = solvers.get("heun2", rtol=1e-1, atol=1e-1, gradient=gradient, checkpoint=checkpoint)
    found = []
    for shape in ([16, 3], [4, 4, 3]):
        y0, gain = tf.reshape(starts(), shape), tf.constant(1.0, tf.float64)
        with tf.GradientTape() as tape:
            tape.watch([y0, gain])
            results = solver.solve(turning, 0.0, y0, [1.0], batch_ndims=len(shape) - 1, constants={"gain": gain})
        assert results.states.shape == [1, *shape]
        to_start, to_gain = tape.gradient(results.states, [y0, gain])
        found.append([tf.reshape(results.states, [16, 3]), tf.reshape(to_start, [16, 3]), to_gain])
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-12)


@pytest.mark.parametrize("gradient", ["backprop", "adjoint"])
def test_no_dynamics_is_differentiated_at_a_state_that_nobody_has(gradient):
    """Where one sample's step is rejected, fails or starts from NaN, a state of zeros would do for most dynamics."""
    weight = tf.Variable(1.0, dtype=tf.float64)
    options = {"max_num_steps": 60, "on_failure": "status", "on_gradient_failure": "status"}
    solver = solvers.get("heun2", rtol=1e-2, atol=1e-2, gradient=gradient, **options)

    def to_weight(y0):
        y0 = tf.constant(y0, tf.float64)
        with tf.GradientTape() as tape:
            results = solver.solve(lambda t, y: -weight * y * tf.math.log(y) / y, 0.0, y0, [1.0], batch_ndims=1)
        return results.diagnostics, tape.gradient(results.states, weight)

    alone = [to_weight([[start]])[1].numpy() for start in (3.0, 9.0)]
    diagnostics, together = to_weight([[3.0], [9.0]])
    np.testing.assert_allclose(together, sum(alone), rtol=1e-10)
    diagnostics, among = to_weight([[np.nan], [3.0], [9.0], [-1.0]])
    assert (diagnostics.status.numpy() == 0).tolist() == [False, True, True, False]
    np.testing.assert_allclose(among, sum(alone), rtol=1e-10)
