"""How long the next step is: step-size controllers and the first step."""

import dataclasses

import tensorflow as tf

from tfode_adv.errors import check_range
from tfode_adv.solvers.runge_kutta import Field, Row, exact, largest, per_row, root_mean_square
from tfode_adv.solvers.tableaus import Tableau


@dataclasses.dataclass(frozen=True)
class IController:
    """The integral controller of the papers' programs: factor = safety * ratio^(-1/p).

    The factor is clipped to [min_factor, max_factor], and never below 1 after an accepted step
    (Hairer, Norsett, Wanner, Solving ODEs I, II.4). That program holds these constants and 1/p in single precision,
    whatever the state's; so do we: the steps are the same to the last bit.
    """

    safety: float = 0.9
    min_factor: float = 0.2
    max_factor: float = 10.0

    def __post_init__(self):
        check_range("safety_factor", self.safety, low=0, low_open=True)
        check_range("min_step_size_factor", self.min_factor, low=0, high=1, low_open=True)
        check_range("max_step_size_factor", self.max_factor, low=1)

    def factor(self, ratio: tf.Tensor, previous: tf.Tensor, accepted: tf.Tensor, order: int) -> tf.Tensor:
        """Factor on the step size, `[n]`.

        Args:
            ratio: error over tolerance of the step just tried, `[n]`.
            previous: the same of the last accepted step, 1 before the first.
            accepted: whether the step just tried was accepted.
            order: p, the order of the error estimate plus one.
        """
        return self._clip(_single(self.safety, ratio) * self._response(ratio, previous, order), accepted)

    def _response(self, ratio: tf.Tensor, previous: tf.Tensor, order: int) -> tf.Tensor:
        del previous
        return _power(ratio, -_single(1 / order, ratio))

    def _clip(self, factor: tf.Tensor, accepted: tf.Tensor) -> tf.Tensor:
        low = tf.where(accepted, tf.ones_like(factor), _single(self.min_factor, factor))
        high = _single(self.max_factor, factor)
        return tf.clip_by_value(factor, low, high)


@dataclasses.dataclass(frozen=True)
class PIController(IController):
    """Gustafsson's proportional-integral controller (ACM TOMS 17, 1991): smoother step sizes.

    factor = safety * ratio^(-alpha/p) * previous^(beta/p), with the usual alpha = 0.7 and beta = 0.4.
    """

    alpha: float = 0.7
    beta: float = 0.4

    def _response(self, ratio: tf.Tensor, previous: tf.Tensor, order: int) -> tf.Tensor:
        alpha, beta = (_single(gain / order, ratio) for gain in (self.alpha, self.beta))
        return _power(ratio, -alpha) * _power(previous, beta)


def _single(value: float, like: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.constant(value, tf.float32), like.dtype)


def _power(base: tf.Tensor, exponent: float | tf.Tensor) -> tf.Tensor:
    # In double precision, since the last bit of a single one's power depends on the sample's place in the batch.
    return tf.cast(tf.cast(base, tf.float64) ** exact(exponent, tf.float64), base.dtype)


AT_REST_EVALUATIONS = 2
CONTROLLERS = {"i": IController, "pi": PIController}


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
    scales = _scales(y, rtol, atol)

    def norms(rows: list[Row]) -> list[tf.Tensor]:
        return [tf.cast(root_mean_square(r / tf.cast(s, r.dtype)), t.dtype) for r, s in zip(rows, scales, strict=True)]

    d0, d1 = norms(y), norms(slope)
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
    d2 = [d / trial for d in norms(change)]
    steepest = largest(d1 + d2, t.dtype)
    curved = _power(0.01 / tf.maximum(steepest, 1e-15), 1.0 / method.control_order)
    step = tf.where(steepest <= 1e-15, tf.maximum(exact(1e-6, t.dtype), trial * 1e-3), curved)
    return tf.where(tf.math.is_finite(steepest), tf.minimum(100 * trial, step), trial)


def _scales(y: list[Row], rtol: tf.Tensor, atol: tf.Tensor) -> list[Row]:
    """What a change of each entry of `y` is measured by."""
    return [per_row(atol, tf.abs(c)) + per_row(rtol, tf.abs(c)) * tf.abs(c) for c in y]


def _up_to(end: tf.Tensor | None, t: tf.Tensor) -> tf.Tensor:
    return t if end is None else tf.minimum(t, end)


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
    scales = _scales(y, rtol, atol)

    def size(rows: list[Row]) -> tf.Tensor:
        parts = zip(rows, scales, strict=True)
        return largest([tf.cast(root_mean_square(r / tf.cast(s, r.dtype)), t.dtype) for r, s in parts], t.dtype)

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
        lambda i, *_: i < AT_REST_EVALUATIONS,
        again,
        (0, moves, tf.zeros_like(t)),
        shape_invariants=(tf.TensorShape([]), [m.shape for m in moves], t.shape),
    )
    longest = tf.math.divide_no_nan(_power(exact(0.01, t.dtype), 1.0 / method.control_order) * 2.5, steepest)
    return tf.where(steepest > 0, longest, exact(float("inf"), t.dtype))
