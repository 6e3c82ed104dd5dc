"""How long the first step of a sample is, where the user does not say."""

import numpy as np
import tensorflow as tf

from tfode_adv.solvers.loop_state import Settings
from tfode_adv.solvers.runge_kutta import Field, Row, error_scales, exact, largest, per_row, scaled_norms
from tfode_adv.solvers.step_size_control import power
from tfode_adv.solvers.tableaus import Tableau

# Units in the last place of the time that a first step has at least: a shorter one might not move the time at all.
SMALLEST_FIRST_STEP = 4


def hairer_first_step(
    f: Field,
    method: Tableau,
    t: tf.Tensor,
    y: list[Row],
    slope: list[Row],
    rtol: tf.Tensor,
    atol: tf.Tensor,
    end: tf.Tensor | None = None,
) -> tf.Tensor:
    """First step size, `[n]`, from one trial evaluation (Hairer, Norsett, Wanner, Solving ODEs I, II.4).

    Norms are root mean squares of a component over atol + rtol |y|; the largest of the components' counts. Where the
    trial is not finite, its own length is the first step: one that is still too long will be rejected.

    Args:
        end: scalar; nothing is evaluated past it.
    """
    scales = error_scales(y, rtol, atol)
    d0, d1 = scaled_norms(y, scales, t.dtype), scaled_norms(slope, scales, t.dtype)
    trial = largest(
        [
            tf.where(
                (a < 1e-5) | (b < 1e-5) | tf.math.is_inf(b), exact(1e-6, t.dtype), 0.01 * tf.math.divide_no_nan(a, b)
            )
            for a, b in zip(d0, d1, strict=True)
        ],
        t.dtype,
    )
    moved = [c + per_row(trial, c) * k for c, k in zip(y, slope, strict=True)]
    change = [b - a for a, b in zip(slope, f(_up_to(end, t + trial), moved), strict=True)]
    d2 = [d / trial for d in scaled_norms(change, scales, t.dtype)]
    steepest = largest(d1 + d2, t.dtype)
    curved = power(0.01 / tf.maximum(steepest, 1e-15), 1.0 / method.control_order)
    step = tf.where(steepest <= 1e-15, tf.maximum(exact(1e-6, t.dtype), trial * 1e-3), curved)
    return tf.where(tf.math.is_finite(steepest), tf.minimum(100 * trial, step), trial)


def _up_to(end: tf.Tensor | None, t: tf.Tensor) -> tf.Tensor:
    return t if end is None else tf.minimum(t, end)


def bounded_first_step(settings: Settings, step: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
    """`step` within the settings' bounds, and never below a few units in the last place of the time `t`."""
    return tf.maximum(settings.bounded(step), SMALLEST_FIRST_STEP * np.finfo(t.dtype.as_numpy_dtype).eps * tf.abs(t))
