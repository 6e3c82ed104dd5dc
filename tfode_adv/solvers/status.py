"""How a sample's integration ended."""

import enum

import numpy as np
import tensorflow as tf

from tfode_adv.errors import RunError


class Status(enum.IntEnum):
    """One integer a sample; 0 is success and what is negative a failure, as in `tfp.math.ode`."""

    OK = 0
    MAX_NUM_STEPS = -1
    UNDERFLOW = -2
    NON_FINITE = -3


REASONS = {
    Status.MAX_NUM_STEPS: "ran out of steps (max_num_steps)",
    Status.UNDERFLOW: "needed a step below the resolution of its number type",
    Status.NON_FINITE: "met a state or slope that is not finite",
}


class SolveError(RunError):
    """An integration that failed for some samples."""


def check_status(status: tf.Tensor, reached: tf.Tensor, what: str = "") -> list[tf.Operation]:
    """Operations that fail with one line where a sample's `status` `[B]` is not OK.

    The line says how many samples failed, why, and the first one's time in `reached` `[B]`. Eagerly a `SolveError`
    is raised, in a graph `tf.errors.InvalidArgumentError`. XLA drops such checks: read the status there.
    """
    if tf.executing_eagerly():
        message = failure_message(status.numpy(), reached.numpy(), what)
        if message:
            raise SolveError(message)
        return []
    failed = tf.not_equal(status, int(Status.OK))
    count = tf.reduce_sum(tf.cast(failed, tf.int32))
    parts = [f"the {what}solve failed for", count, "of", tf.size(status), "samples:"]
    for code, reason in REASONS.items():
        this = tf.equal(status, int(code))
        first = tf.reduce_min(tf.where(this, reached, reached.dtype.max))
        parts += [
            tf.reduce_sum(tf.cast(this, tf.int32)),
            f"{reason}, first at t =",
            tf.where(count > 0, first, 0),
            ";",
        ]
    return [tf.debugging.Assert(tf.equal(count, 0), parts, summarize=1)]


def without_failed(outputs: list[tf.Tensor], status: tf.Tensor) -> list[tf.Tensor]:
    """Outputs `[T, B, ...]` with NaN for the samples whose `status` `[B]` is a failure."""

    def mask(x: tf.Tensor) -> tf.Tensor:
        good = tf.reshape(tf.equal(status, int(Status.OK)), [1, -1] + [1] * (x.shape.rank - 2))
        return tf.where(good, x, tf.cast(float("nan"), x.dtype))

    return [mask(x) for x in outputs]


def failure_message(status: np.ndarray, reached: np.ndarray, what: str = "") -> str | None:
    """One line on the failed samples of `status` `[B]`, with the times they reached; None where all succeeded."""
    status, reached = np.atleast_1d(status), np.atleast_1d(reached)
    if not status.any():
        return None
    parts = []
    for code, reason in REASONS.items():
        times = reached[status == int(code)]
        if times.size:
            parts.append(f"{times.size} {reason} at t = {times.min():.6g}" + (" and later" if times.size > 1 else ""))
    return f"the {what}solve failed for {np.count_nonzero(status)} of {status.size} samples: {'; '.join(parts)}"
