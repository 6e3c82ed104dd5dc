"""What a model says of images, as arrays: records and reports know it without TensorFlow."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

NO_ANSWER = -1
"""The class predicted where there is no answer: none, so never the right one."""
UNKNOWN = -1


class Answers(NamedTuple):
    """What a model says of images.

    Attributes:
        logits: [N, K] float32.
        nfe: evaluations of the dynamics over all ODE blocks, [N] int32: 0 for a model without, `UNKNOWN` where blocks
            are called about other samples than the images, or in a function or loop of the model's own.
        status: of the first block whose solve failed, a `tfode_adv.solvers.Status`, [N] int32; 0 for success.
        time: that this solve reached, [N].
    """

    logits: np.ndarray
    nfe: np.ndarray
    status: np.ndarray
    time: np.ndarray

    @property
    def no_answer(self) -> np.ndarray:
        """[N] bool: a solve failed, or a logit is not finite."""
        return (self.status != 0) | ~np.isfinite(self.logits).all(-1)

    @property
    def prediction(self) -> np.ndarray:
        """The classes predicted, [N] int32; `NO_ANSWER` where there is none."""
        return np.where(self.no_answer, NO_ANSWER, self.logits.argmax(-1)).astype(np.int32)

    def fooled(self, y: np.ndarray, targeted: bool = False) -> np.ndarray:
        """[N] bool: see `fooled`; no solve failed besides."""
        import tensorflow as tf

        return (self.status == 0) & fooled(tf.constant(self.logits), tf.constant(y), targeted).numpy()

    def margin(self, y: np.ndarray) -> np.ndarray:
        """The logit of `y` less the largest other one, [N] float64; NaN without an answer."""
        rows, others = np.arange(len(y)), np.array(self.logits, np.float64)
        own = others[rows, y]
        others[rows, y] = -np.inf
        return np.where(self.no_answer, np.nan, own - others.max(-1))

    def of(self, rows: Any) -> "Answers":
        """The answers for some of the images."""
        return Answers(*(values[rows] for values in self))

    def put(self, rows: Any, others: "Answers") -> None:
        """Takes `others` in the places of those for the images `rows`."""
        for values, new in zip(self, others, strict=True):
            values[rows] = new

    def copy(self) -> "Answers":
        """The same in arrays of their own."""
        return Answers(*(values.copy() for values in self))

    @classmethod
    def told(cls, logits: np.ndarray, nfe: np.ndarray | None = None) -> "Answers":
        """Of logits [N, K] that solves without a failure gave, after `nfe` [N] evaluations or none."""
        count = len(logits)
        blank = np.zeros(count, np.int32) if nfe is None else nfe
        return cls(logits, blank, np.zeros(count, np.int32), np.zeros(count, np.float32))

    @classmethod
    def blank(cls, count: int, classes: int) -> "Answers":
        """Room for the answers for so many images."""
        return cls.told(np.zeros([count, classes], np.float32))

    @classmethod
    def joined(cls, parts: Iterable["Answers"]) -> "Answers":
        """The answers of all parts in one."""
        return cls(*map(np.concatenate, zip(*parts, strict=True)))


def fooled(logits: "tf.Tensor", y: "tf.Tensor", targeted: bool) -> "tf.Tensor":
    """The judge of success, [N] bool: is there an answer, and another than `y`? If `targeted`: is it `y`?"""
    import tensorflow as tf

    hit = tf.argmax(logits, -1, output_type=y.dtype) == y
    return tf.reduce_all(tf.math.is_finite(logits), -1) & (hit if targeted else ~hit)
