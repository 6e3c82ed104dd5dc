"""The times at which a solution is wanted."""

from typing import Any

import numpy as np
import tensorflow as tf

from tfode_adv.errors import UsageError
from tfode_adv.solvers.runge_kutta import exact

_RULE = "solution_times must not decrease, from initial_time on, but are"
_FINITE = "initial_time and solution_times must be finite, but are"


def checked_times(t0: tf.Tensor, times: Any, dtype: tf.DType, validate: bool) -> tf.Tensor:
    """`times` as a vector `[T]` that does not decrease and begins at the scalar `t0` or later.

    Args:
        validate: whether to check at run time what is not known before (XLA drops that check).

    Raises:
        UsageError: for another shape or order; known at run time only, `tf.errors.InvalidArgumentError`.
    """
    times = exact(times, dtype)
    if times.shape.rank != 1 or times.shape[0] == 0:
        raise UsageError(f"solution_times has shape {times.shape}, but must be a vector of at least one time")
    # Apart, since in a graph the static value of the two joined is not known.
    start, known = tf.get_static_value(t0), tf.get_static_value(times)
    if known is not None:
        line = known if start is None else np.concatenate([[start], known])
        if not np.isfinite(line).all():
            raise UsageError(f"{_FINITE} {line.tolist()}")
        if not (line[1:] >= line[:-1]).all():
            raise UsageError(f"{_RULE} {line.tolist()}")
    if validate and (start is None or known is None):
        line = tf.concat([t0[tf.newaxis], times], 0)
        ordered = tf.debugging.Assert(tf.reduce_all(line[1:] >= line[:-1]), [_RULE, line], summarize=-1)
        finite = tf.debugging.Assert(tf.reduce_all(tf.math.is_finite(line)), [_FINITE, line], summarize=-1)
        with tf.control_dependencies([ordered, finite]):
            times = tf.identity(times)
    return times
