"""The gradient that the papers' programs took: plain differentiation of the solver's own loop.

There the step sizes are differentiated too: the first one and every later one are functions of the state. An
`ODEBlock` holds them constant, as its documentation says. Both are had from the loop below, which is
differentiated operation by operation, so that it tells what of a difference is the step sizes' and what would be
a fault.
"""

import contextlib
import functools
from unittest import mock

import tensorflow as tf

from tfode_adv.layers import ODEBlock
from tfode_adv.solvers import runge_kutta as rk
from tfode_adv.solvers.control import IController, hairer_first_step
from tfode_adv.solvers.methods import METHODS


@functools.cache
def _compiled_dynamics(block):
    return tf.function(block.dynamics, autograph=False, reduce_retracing=True)


@contextlib.contextmanager
def compiled_dynamics():
    """Inside, every ODE block called eagerly evaluates its dynamics in one compiled function a block."""
    with mock.patch.object(ODEBlock, "_field", lambda block, t, h: _compiled_dynamics(block)(t, h)):
        yield


@contextlib.contextmanager
def plain_loops(through_step_sizes):
    """Inside, every ODE block called eagerly is the plain loop over [0, 1], whose gradient a tape takes."""

    def call(block, h0):
        return _solve(block, h0, through_step_sizes)

    with mock.patch.object(ODEBlock, "call", call):
        yield


def _solve(block, h0, through_step_sizes):
    method = METHODS[block.solver].tableau
    y = tf.nest.flatten(h0)

    def f(t, rows):
        t = tf.reshape(t, [-1] + [1] * (rows[0].shape.rank - 1))
        return tf.nest.flatten(block._field(t, tf.nest.pack_sequence_as(h0, rows)))

    solve = _adaptive if method.adaptive else _one_step
    tol = tf.fill([y[0].shape[0]], tf.cast(block.tol, y[0].dtype))
    return tf.nest.pack_sequence_as(h0, solve(f, method, y, tol, through_step_sizes))


def _one_step(f, method, y, tol, through_step_sizes):
    slopes, _ = rk.stages(f, method, tf.zeros_like(tol), tf.ones_like(tol), y, None)
    return rk.advance(y, tf.ones_like(tol), method.b, slopes)


def _adaptive(f, method, y, tol, through_step_sizes):
    t, active, end = tf.zeros_like(tol), tf.ones_like(tol, tf.bool), y
    slope = f(t, y)
    h = hairer_first_step(f, method, t, y, slope, tol, tol)
    while tf.reduce_any(active):
        h = h if through_step_sizes else tf.stop_gradient(h)
        slopes, y_next = rk.stages(f, method, t, h, y, slope)
        ratio = rk.error_ratio(method, h, y, y_next, slopes, tol, tol)
        accepted = active & (ratio <= 1)
        crossing = accepted & (t + h >= 1)
        weights = rk.dense_weights(method, (1 - t) / h, crossing)
        end = _where(crossing, rk.advance(y, h, weights, slopes), end)
        factor = IController().factor(ratio, tf.ones_like(ratio), accepted, method.control_order)
        y, slope = _where(accepted, y_next, y), _where(accepted, slopes[-1], slope)
        t, h = tf.where(accepted, t + h, t), tf.where(active, h * factor, h)
        active &= ~crossing
    return end


def _where(condition, rows, others):
    conditions = [tf.reshape(condition, [-1] + [1] * (row.shape.rank - 1)) for row in rows]
    return [tf.where(c, a, b) for c, a, b in zip(conditions, rows, others, strict=True)]
