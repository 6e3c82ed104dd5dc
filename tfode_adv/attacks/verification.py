"""Which successes count: those that hold on a fresh forward pass. The pool retries one that is refuted.

Many draws of a randomised model make no success of luck: after the n-th success of a sample that did not hold, the
next must hold in n + 1 passes. One restart thus turns a model that errs with probability p, whatever the image, with
at most p + p^2 + p^3 ..., however many the steps.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tfode_adv.models.answers import Answers


class Verified(NamedTuple):
    """Images [n, ...], what the model answers for them, and success [n]."""

    images: np.ndarray
    answers: Answers
    success: np.ndarray

    def of(self, rows: np.ndarray) -> "Verified":
        """That on some of the images."""
        return Verified(self.images[rows], self.answers.of(rows), self.success[rows])

    def put(self, rows: np.ndarray, other: "Verified") -> None:
        """Takes `other` in the place of that on the images `rows`."""
        self.images[rows], self.success[rows] = other.images, other.success
        self.answers.put(rows, other.answers)


class Verification:
    """The fresh passes over n samples.

    Attributes:
        passes: how many each sample has had, [n].
        refutations: how many successes of each sample did not hold, [n].
    """

    def __init__(self, verify: Callable[[np.ndarray, np.ndarray], Verified], count: int, classes: int):
        """Args as `retrying_pool.Work` has them: `verify` makes one pass over some of the `count` samples."""
        self._verify, self._classes = verify, classes
        self.passes, self.refutations = np.zeros((2, count), np.int64)

    def judge(self, rows: np.ndarray, images: np.ndarray) -> Verified:
        """The images as they count, and who fooled every pass: one, and one for each time it was refuted.

        Args:
            rows: [k], which of the samples these are.
            images: [k, ...], what was found for them; changed in place.
        """
        verified = Verified(images, Answers.blank(len(rows), self._classes), np.ones(len(rows), bool))
        for count in range(self.refutations[rows].max() + 1):
            asked = np.flatnonzero(verified.success & (self.refutations[rows] >= count))
            if len(asked):
                verified.put(asked, self._verify(rows[asked], images[asked]))
                self.passes[rows[asked]] += 1
        self.refutations[rows[~verified.success]] += 1
        return verified
