"""One Runge-Kutta step of every sample: stages, new state, dense output, error, and the step's derivative."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfode_adv.solvers.tableaus import Coefficients, Tableau

Row = tf.Tensor
Field = Callable[[tf.Tensor, list[Row]], list[Row]]


def exact(value: Any, dtype: tf.DType) -> tf.Tensor:
    """`value` as a tensor of `dtype`; a Python number is not rounded to float32 on the way, as `tf.cast` would."""
    return tf.cast(value, dtype) if tf.is_tensor(value) else tf.convert_to_tensor(np.asarray(value), dtype)


def per_row(value: tf.Tensor, like: Row) -> tf.Tensor:
    """`[n]` reshaped and cast to broadcast against `like` `[n, ...]`."""
    return tf.cast(tf.reshape(value, [-1] + [1] * (like.shape.rank - 1)), like.dtype)


def select(where: tf.Tensor, rows: list[Row], others: list[Row] | None = None) -> list[Row]:
    """`rows` of the samples for which `where` `[n]` holds; those of the others from `others`, or zero."""
    masks = [tf.reshape(where, [-1] + [1] * (r.shape.rank - 1)) for r in rows]
    others = [tf.zeros_like(r) for r in rows] if others is None else others
    return [tf.where(m, r, o) for m, r, o in zip(masks, rows, others, strict=True)]


def stand_in(where: tf.Tensor, rows: list[Row]) -> list[Row]:
    """`rows` of the samples for which `where` `[n]` holds; each of the others becomes a copy of one of those.

    So that what is computed of the others is as finite as the rest, and times zero gives zero: at a state of zeros,
    or that of a sample that broke down, a dynamics may not be. Where it holds for none, nothing changes.
    """

    def copied() -> list[Row]:
        places = tf.range(tf.size(where))
        one = tf.reduce_max(tf.where(where, places, -1))
        places = tf.where(where | (one < 0), places, one)
        return [tf.gather(r, places) for r in rows]

    return tf.cond(tf.reduce_all(where), lambda: list(rows), copied)


def weighted_sum(weights: Sequence[float | tf.Tensor], terms: Sequence[Row]) -> Row | None:
    """Sum of `weights[i] * terms[i]`; a weight is a float, or one number a row; None where all are 0."""
    products = []
    for weight, term in zip(weights, terms, strict=True):
        if isinstance(weight, tf.Tensor):
            products.append(per_row(weight, term) * term)
        elif weight == 1:
            products.append(term)
        elif weight != 0:
            products.append(exact(weight, term.dtype) * term)
    if not products:
        return None
    return tf.add_n(products) if len(products) > 1 else products[0]


def advance(y: list[Row], h: tf.Tensor, weights: Sequence[float | tf.Tensor], slopes: list[list[Row]]) -> list[Row]:
    """`y + h * sum_i weights[i] * slopes[i]`, component by component."""
    if not slopes:
        return y
    moved = []
    for component, terms in zip(y, zip(*slopes, strict=True), strict=True):
        change = weighted_sum(weights, terms)
        moved.append(component if change is None else component + per_row(h, component) * change)
    return moved


def stages(
    f: Field, method: Tableau, t: tf.Tensor, h: tf.Tensor, y: list[Row], first: list[Row] | None, t_next: tf.Tensor
) -> tuple[list[list[Row]], list[Row]]:
    """The slopes of all stages, and the state the last stage was evaluated at.

    Args:
        first: the slope at the start where it is known already, else None.
        t_next: the step's end.
    """
    slopes = [f(t, y) if first is None else first]
    state = y
    for a, c in zip(method.a[1:], method.c[1:], strict=True):
        state = advance(y, h, a, slopes)
        slopes.append(f(stage_time(c, t, h, t_next), state))
    return slopes, state


def stage_time(c: float, t: tf.Tensor, h: tf.Tensor, t_next: tf.Tensor) -> tf.Tensor:
    """The time at the fraction `c` of a step; at its end that end itself, which a rounded sum may pass."""
    return t_next if c == 1 else t + exact(c, t.dtype) * h


def dense_weights(method: Tableau, theta: tf.Tensor, at_end: tf.Tensor) -> list[tf.Tensor]:
    """The weight of each slope, `[n]`, in the state at the fraction `theta` `[n]` of the step.

    At theta = 1 they are the method's own weights, so that the end of a step is the step's own result.

    Args:
        at_end: `[n]`, whether this is the state at the end of the integration.
    """
    if method.endpoint is not None:
        inside = _polynomials(method.dense, method.b, theta)
        last = _polynomials(method.endpoint, method.b, theta)
        return [tf.where(at_end, b, a) for a, b in zip(inside, last, strict=True)]
    return _polynomials(method.dense, method.b, theta)


def _polynomials(coefficients: Coefficients, at_one: Sequence[float], theta: tf.Tensor) -> list[tf.Tensor]:
    # Horner's scheme for all slopes at once: a loop over them makes a hundred operations for each place that asks.
    powers = max(map(len, coefficients))
    padded = np.array([[*row, *[0.0] * (powers - len(row))] for row in coefficients])
    value = tf.zeros_like(theta)
    for column in reversed(padded.T):
        value = (value + exact(column[:, np.newaxis], theta.dtype)) * theta
    ends = exact(np.array(at_one)[:, np.newaxis], theta.dtype)
    return tf.unstack(tf.where(tf.equal(theta, 1), ends, value), len(padded))


def mean_square(rows: Row) -> tf.Tensor:
    """Mean over all but the first axis of |rows|^2, `[n]`, in a real type."""
    square = tf.math.real(rows * tf.math.conj(rows)) if rows.dtype.is_complex else tf.square(rows)
    if rows.shape[1:].num_elements() == 0:
        return tf.zeros(tf.shape(rows)[:1], square.dtype)
    if rows.shape.rank != 2:
        square = tf.reshape(square, [tf.shape(rows)[0], _size(rows)])
    return tf.reduce_mean(square, axis=1)


def root_mean_square(rows: Row) -> tf.Tensor:
    """Root mean square over all but the first axis, `[n]`; its derivative at 0 is 0."""
    square = mean_square(rows)
    zero = tf.equal(square, 0)
    return tf.where(zero, square, tf.sqrt(tf.where(zero, tf.ones_like(square), square)))


def not_finite(components: list[Row], dtype: tf.DType) -> tf.Tensor:
    """0 for each row that is finite in every component, NaN for the others, `[n]`."""
    return largest([mean_square(c * 0) for c in components], dtype)


def below_resolution(y: list[Row], rtol: tf.Tensor, atol: tf.Tensor) -> tf.Tensor:
    """Whether the tolerance is so much finer than the state's number type that rounding alone asks for 10,000 steps."""
    below = tf.zeros_like(rtol, tf.bool)
    for component in y:
        size = tf.cast(tf.sqrt(mean_square(component)), rtol.dtype)
        resolution = float(np.finfo(component.dtype.real_dtype.as_numpy_dtype).eps)
        below |= atol + rtol * size < 1e-4 * resolution * size
    return below


def _size(rows: Row) -> int | tf.Tensor:
    # Spelled out because -1 is ambiguous for a batch of zero samples.
    size = rows.shape[1:].num_elements()
    return size if size is not None else tf.reduce_prod(tf.shape(rows)[1:])


def largest(values: Sequence[tf.Tensor], dtype: tf.DType) -> tf.Tensor:
    """Elementwise maximum of one `[n]` tensor a component; NaN wherever one of them is NaN."""
    result = tf.cast(values[0], dtype)
    for value in values[1:]:
        value = tf.cast(value, dtype)
        result = tf.where(tf.math.is_nan(value), value, tf.maximum(result, value))
    return result


def error_scales(y: list[Row], rtol: tf.Tensor, atol: tf.Tensor) -> list[Row]:
    """What a change of each entry of `y` is measured by."""
    return [per_row(atol, tf.abs(c)) + per_row(rtol, tf.abs(c)) * tf.abs(c) for c in y]


def scaled_norms(rows: list[Row], scales: list[Row], dtype: tf.DType) -> list[tf.Tensor]:
    """The root mean square of each component over its scale, `[n]` each."""
    return [tf.cast(root_mean_square(r / tf.cast(s, r.dtype)), dtype) for r, s in zip(rows, scales, strict=True)]


def error_ratio(
    method: Tableau,
    h: tf.Tensor,
    y: list[Row],
    y_next: list[Row],
    slopes: list[list[Row]],
    rtol: tf.Tensor,
    atol: tf.Tensor,
    root: Callable[[Row], tf.Tensor] = lambda rows: tf.sqrt(mean_square(rows)),
) -> tf.Tensor:
    """Error over tolerance of a step, `[n]`.

    Where the method's `error_norm` is "rms": the root mean square of error / (atol + rtol max(|y|, |y_next|)), the
    largest over the components. Where it is "sum": the sum of |error| over all entries of all components, over atol.
    Not a number where the new state is not finite: an error over infinity would be zero.

    Args:
        root: the root mean square; the plain one has no derivative at 0, `root_mean_square` has.
    """
    if method.error_norm == "sum":
        return _summed_error(method, h, y_next, slopes) / atol + not_finite(y_next, h.dtype)
    ratios = []
    for a, b, *terms in zip(y, y_next, *slopes, strict=True):
        error = weighted_sum(method.error, terms)
        scale = per_row(atol, tf.abs(a)) + per_row(rtol, tf.abs(a)) * tf.maximum(tf.abs(a), tf.abs(b))
        scale = tf.where(tf.math.is_inf(scale), tf.constant(np.nan, scale.dtype), scale)
        ratios.append(root(error / tf.cast(scale, error.dtype)) * tf.cast(h, scale.dtype))
    return largest(ratios, h.dtype)


def _summed_error(method: Tableau, h: tf.Tensor, y: list[Row], slopes: list[list[Row]]) -> tf.Tensor:
    """The sum over all entries of |error|, `[n]`."""
    total = tf.zeros_like(h)
    for like, *terms in zip(y, *slopes, strict=True):
        error = tf.abs(weighted_sum(method.error, terms))
        total += tf.cast(tf.reduce_sum(tf.reshape(error, [tf.shape(like)[0], _size(like)]), 1), h.dtype)
    return total * h
