"""How long a step may be where its error is exactly zero, and so says nothing."""

import tensorflow as tf

from tfode_adv.solvers.runge_kutta import Field, Row, error_scales, exact, largest, per_row, scaled_norms
from tfode_adv.solvers.step_size_control import power
from tfode_adv.solvers.tableaus import Tableau

EVALUATIONS = 2


def longest_at_rest(
    f: Field,
    method: Tableau,
    t: tf.Tensor,
    y: list[Row],
    slope: list[Row],
    rtol: tf.Tensor,
    atol: tf.Tensor,
) -> tf.Tensor:
    """The longest step, `[n]`, from a state at which the error was exactly zero, and so says nothing.

    At rest every step is right for the state itself, but its derivative is that of a neighbour, for whom a long step
    may be past the bound of stability. So the field is tried beside the state, at the distance of the tolerance, to
    see how strongly it answers: two steps of the power method from a fixed direction give L. The step is
    2.5 * 0.01^(1/p) / L (1 / L for dopri5), for which a step's derivative is right to about a hundredth; infinite
    where nothing answers.
    """
    scales = error_scales(y, rtol, atol)

    def size(rows: list[Row]) -> tf.Tensor:
        return largest(scaled_norms(rows, scales, t.dtype), t.dtype)

    def normal(c: Row, i: int) -> Row:
        return tf.cast(tf.random.stateless_normal(tf.shape(c)[1:], [7, i], dtype=t.dtype)[tf.newaxis], c.dtype)

    def answer(moves: list[Row]) -> list[Row]:
        return [b - a for a, b in zip(slope, f(t, [c + m for c, m in zip(y, moves, strict=True)]), strict=True)]

    def again(i, moves, steepest):
        change = answer(moves)
        strength = tf.math.divide_no_nan(size(change), size(moves))
        known = tf.math.is_finite(strength) & (strength > 0)
        factor = tf.where(known, 1 / tf.where(known, strength, 1), 0)
        moves = [tf.ensure_shape(per_row(factor, c) * c, m.shape) for c, m in zip(change, moves, strict=True)]
        return i + 1, moves, tf.where(known, tf.maximum(steepest, strength), steepest)

    moves = [tf.cast(s, c.dtype) * normal(c, i) for i, (c, s) in enumerate(zip(y, scales, strict=True))]
    _, _, steepest = tf.while_loop(
        lambda i, *_: i < EVALUATIONS,
        again,
        (0, moves, tf.zeros_like(t)),
        shape_invariants=(tf.TensorShape([]), [m.shape for m in moves], t.shape),
    )
    longest = tf.math.divide_no_nan(power(exact(0.01, t.dtype), 1.0 / method.control_order) * 2.5, steepest)
    return tf.where(steepest > 0, longest, exact(float("inf"), t.dtype))
