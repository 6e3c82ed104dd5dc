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


CONTROLLERS = {"i": IController, "pi": PIController}


def hairer_first_step(
    f: Field,
    method: Tableau,
    t: tf.Tensor,
    y: list[Row],
    slope: list[Row],
    rtol: tf.Tensor,
    atol: tf.Tensor,
) -> tf.Tensor:
    """First step size, `[n]`, from one trial evaluation (Hairer, Norsett, Wanner, Solving ODEs I, II.4).

    Norms are root mean squares of a component over atol + rtol |y|; the largest of the components' counts.
    """
    scales = [per_row(atol, tf.abs(c)) + per_row(rtol, tf.abs(c)) * tf.abs(c) for c in y]

    def norms(rows: list[Row]) -> list[tf.Tensor]:
        return [tf.cast(root_mean_square(r / tf.cast(s, r.dtype)), t.dtype) for r, s in zip(rows, scales, strict=True)]

    d0, d1 = norms(y), norms(slope)
    trial = largest(
        [
            tf.where((a < 1e-5) | (b < 1e-5), exact(1e-6, t.dtype), 0.01 * tf.math.divide_no_nan(a, b))
            for a, b in zip(d0, d1, strict=True)
        ],
        t.dtype,
    )
    moved = [c + per_row(trial, c) * k for c, k in zip(y, slope, strict=True)]
    change = [b - a for a, b in zip(slope, f(t + trial, moved), strict=True)]
    d2 = [d / trial for d in norms(change)]
    steepest = largest(d1 + d2, t.dtype)
    curved = _power(0.01 / tf.maximum(steepest, 1e-15), 1.0 / method.control_order)
    step = tf.where(steepest <= 1e-15, tf.maximum(exact(1e-6, t.dtype), trial * 1e-3), curved)
    return tf.minimum(100 * trial, step)
