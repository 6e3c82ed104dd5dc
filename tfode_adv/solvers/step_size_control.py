"""How long the next step is: controllers from the error of a step to the size of the next."""

import dataclasses
from typing import ClassVar

import tensorflow as tf

from tfode_adv.errors import UsageError, check_range
from tfode_adv.solvers.runge_kutta import exact

# Remembered in place of smaller ones: zero errors would make the next proportional-integral factor zero.
SMALLEST_RATIO = 1e-4


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
    # Whether the field is asked how long the step after one without any error may be.
    asks_at_rest: ClassVar[bool] = True

    def __post_init__(self):
        check_range("safety_factor", self.safety, low=0, low_open=True)
        check_range("min_step_size_factor", self.min_factor, low=0, high=1, low_open=True)
        check_range("max_step_size_factor", self.max_factor, low=1)

    def factor(self, ratio: tf.Tensor, previous: tf.Tensor, accepted: tf.Tensor, order: int) -> tf.Tensor:
        """Factor on the step size, `[n]`.

        Args:
            ratio: error over tolerance of the step just tried, `[n]`.
            previous: error over tolerance of the last accepted step, 1 before the first.
            accepted: whether the step just tried was accepted.
            order: p, the order of the error estimate plus one.
        """
        return self._clip(_single(self.safety, ratio) * self._response(ratio, previous, order), accepted)

    def least(self, like: tf.Tensor) -> tf.Tensor:
        """The smallest factor, in the type of `like`."""
        return _single(self.min_factor, like)

    def _response(self, ratio: tf.Tensor, previous: tf.Tensor, order: int) -> tf.Tensor:
        del previous
        return power(ratio, -_single(1 / order, ratio))

    def _clip(self, factor: tf.Tensor, accepted: tf.Tensor) -> tf.Tensor:
        low = tf.where(accepted, tf.ones_like(factor), self.least(factor))
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
        return power(ratio, -alpha) * power(previous, beta)


@dataclasses.dataclass(frozen=True)
class DoublingController(IController):
    """Doubles a step whose error is below 2^-p of the tolerance, keeps one that is within it, halves the others.

    Zeqiri et al., "Efficient Certified Training and Robustness Verification of Neural ODEs", ICLR 2023, as their
    program has it with a factor of 2: the sizes are those of the first step times powers of two, so that what a set of
    images may take can be enumerated.
    """

    asks_at_rest: ClassVar[bool] = False

    def __post_init__(self):
        mine = dataclasses.astuple(IController())
        if (self.safety, self.min_factor, self.max_factor) != mine:
            raise UsageError(
                "controller is 'doubling', whose factors are 1/2, 1 and 2: it has no safety_factor, "
                "min_step_size_factor or max_step_size_factor"
            )

    def factor(self, ratio: tf.Tensor, previous: tf.Tensor, accepted: tf.Tensor, order: int) -> tf.Tensor:
        del previous
        one = tf.ones_like(ratio)
        return tf.where(accepted, tf.where(ratio <= exact(2.0**-order, ratio.dtype), 2 * one, one), one / 2)

    def least(self, like: tf.Tensor) -> tf.Tensor:
        return tf.constant(0.5, like.dtype)


def _single(value: float, like: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.constant(value, tf.float32), like.dtype)


def power(base: tf.Tensor, exponent: float | tf.Tensor) -> tf.Tensor:
    """`base ** exponent` in the type of `base`."""
    # In double precision, since the last bit of a single one's power depends on the sample's place in the batch.
    return tf.cast(tf.cast(base, tf.float64) ** exact(exponent, tf.float64), base.dtype)


CONTROLLERS = {"i": IController, "pi": PIController, "doubling": DoublingController}
