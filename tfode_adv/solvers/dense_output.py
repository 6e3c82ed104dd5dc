"""The states a user asked for, read off the dense output of the steps that pass their times."""

from typing import NamedTuple

import tensorflow as tf

from tfode_adv.solvers import runge_kutta as rk
from tfode_adv.solvers.tableaus import Tableau


class Crossings(NamedTuple):
    """P pairs of a step and a solution time inside it.

    Attributes:
        sample: `[P]` row of the step, among n.
        row: `[P]` row of the outputs, which are kept flat, `[T * B, ...]`.
        theta: `[P]` fraction of the step at which the time lies.
        valid: `[P]` False for the pairs to ignore (XLA wants all T * n of them).
        at_end: `[P]` whether the time is the last one.
    """

    sample: tf.Tensor
    row: tf.Tensor
    theta: tf.Tensor
    valid: tf.Tensor
    at_end: tf.Tensor


def find_crossings(
    times: tf.Tensor,
    index: tf.Tensor,
    full: tf.Tensor,
    t: tf.Tensor,
    t_next: tf.Tensor,
    where: tf.Tensor,
    xla: bool,
    end: tf.Tensor,
) -> Crossings:
    """Solution times in (t, t_next] of the steps selected by `where` `[n]`.

    Args:
        times: `[T]`.
        index: `[n]`, the steps' samples' places among the `full` ones.
        end: last time of the integration.
    """
    crossed = where & (times[:, tf.newaxis] > t) & (times[:, tf.newaxis] <= t_next)
    pairs = tf.where(tf.ones_like(crossed) if xla else crossed)
    time, sample = tf.cast(pairs[:, 0], tf.int32), tf.cast(pairs[:, 1], tf.int32)
    valid = tf.gather_nd(crossed, pairs) if xla else tf.ones_like(sample, tf.bool)
    reached, start, stop = tf.gather(times, time), tf.gather(t, sample), tf.gather(t_next, sample)
    theta = tf.where(valid, tf.math.divide_no_nan(reached - start, stop - start), 0)
    return Crossings(sample, time * full + tf.gather(index, sample), theta, valid, reached >= end)


def initial_outputs(y0: list[tf.Tensor], times: tf.Tensor) -> list[tf.Tensor]:
    """The initial state at every time: what a sample that never moves returns."""
    count = tf.size(times)
    return [tf.tile(c, tf.concat([[count], tf.ones([c.shape.rank - 1], tf.int32)], 0)) for c in y0]


def put(outputs: list[tf.Tensor], at: Crossings, values: list[tf.Tensor], xla: bool) -> list[tf.Tensor]:
    """`outputs` with the rows of `at` replaced by `values` `[P, ...]`."""
    if xla:
        masks = [tf.reshape(at.valid, [-1] + [1] * (v.shape.rank - 1)) for v in values]
        # Where there is one row, the choice forgets that.
        return [tf.ensure_shape(tf.where(m, v, o), o.shape) for m, v, o in zip(masks, values, outputs, strict=True)]
    rows = at.row[:, tf.newaxis]
    # There is no place to put nothing.
    empty = [o.shape[1:].num_elements() == 0 for o in outputs]
    trios = zip(values, outputs, empty, strict=True)
    return [o if none else tf.tensor_scatter_nd_update(o, rows, v) for v, o, none in trios]


def states_inside(
    method: Tableau, at: Crossings, h: tf.Tensor, y: list[tf.Tensor], slopes: list[list[tf.Tensor]]
) -> list[tf.Tensor]:
    """The states at the crossings, `[P, ...]`, from the n steps' starts, sizes and slopes."""

    def pick(rows: list[tf.Tensor]) -> list[tf.Tensor]:
        return [tf.gather(r, at.sample) for r in rows]

    weights = rk.dense_weights(method, at.theta, at.at_end)
    return rk.advance(pick(y), tf.gather(h, at.sample), weights, [pick(k) for k in slopes])


def pull_back(
    method: Tableau, at: Crossings, h: tf.Tensor, cotangents: list[tf.Tensor], count: tf.Tensor
) -> tuple[list[tf.Tensor], list[list[tf.Tensor]]]:
    """The transpose of `states_inside`: cotangents of the n starts and of the slopes of every stage.

    Args:
        cotangents: those of the outputs, flat, `[T * B, ...]`.
        count: n.
    """
    picked = [tf.gather(c, at.row) for c in cotangents]
    picked = [tf.where(tf.reshape(at.valid, [-1] + [1] * (c.shape.rank - 1)), c, 0) for c in picked]

    def collect(rows: list[tf.Tensor]) -> list[tf.Tensor]:
        return [tf.math.unsorted_segment_sum(r, at.sample, count) for r in rows]

    step = tf.gather(h, at.sample)
    weights = rk.dense_weights(method, at.theta, at.at_end)
    of_slopes = [collect([rk.per_row(weight * step, c) * c for c in picked]) for weight in weights]
    return collect(picked), of_slopes
