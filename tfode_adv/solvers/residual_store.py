"""The intermediate results of a solve's evaluations, kept for its backward pass so that none is computed twice.

They are kept for the samples as they stood in the solver's loop, those whose step was rejected included: which axis of
a result counts the samples is not known. An iteration that many samples reject, or that would take more memory than
is allowed, keeps nothing: its steps are recomputed from their starts.
"""

import dataclasses

import tensorflow as tf

from tfode_adv.solvers.split_field import SplitField
from tfode_adv.solvers.tableaus import Tableau

# What checkpoint="auto" may take, in bytes. OON-MNIST keeps 1.0 GB for a batch of 128 at a tolerance of 1e-3, and
# a machine that trains such models has several times that to spare.
AUTO_BYTES = 2 * 2**30
# An evaluation's derivative costs about 1.4 evaluations. Pulling back all n samples is then cheaper than evaluating
# and pulling back the m accepted ones as long as 1.4 n < 2.4 m.
WORTHWHILE_SHARE = 0.6


@dataclasses.dataclass(frozen=True)
class ResidualStore:
    """TensorArrays, one a residual of the field's, that hold group after group of evaluations.

    Group 0 is the initial slope, where the method hands slopes on from step to step; group i + 1 is iteration i of
    the solver's loop.

    Attributes:
        arrays: the residuals; element 0 is group 0, then `per_group` elements a group.
        flags: whether each group was kept.
        bytes: taken so far.
        limit: bytes that may be taken, or None.
    """

    split: SplitField
    per_group: int
    limit: int | None
    arrays: list[tf.TensorArray]
    flags: tf.TensorArray
    bytes: tf.Tensor

    @classmethod
    def empty(cls, split: SplitField, method: Tableau, limit: int | None) -> "ResidualStore":
        def array(dtype: tf.DType, shape: tf.TensorShape) -> tf.TensorArray:
            options = {"dynamic_size": True, "clear_after_read": False, "infer_shape": False}
            return tf.TensorArray(_stored(dtype), size=0, element_shape=shape, **options)

        arrays = [array(r.dtype, r.shape) for r in split.residuals]
        flags = array(tf.bool, tf.TensorShape([])).write(0, False)
        return cls(split, method.evaluations_per_step, limit, arrays, flags, tf.constant(0, tf.int64))

    @property
    def variables(self) -> tuple:
        """What changes over the loop."""
        return self.arrays, self.flags, self.bytes

    def having(self, variables: tuple) -> "ResidualStore":
        arrays, flags, total = variables
        return dataclasses.replace(self, arrays=arrays, flags=flags, bytes=total)

    def write(self, group: tf.Tensor | int, residuals: list[list[tf.Tensor]], accepted: tf.Tensor) -> "ResidualStore":
        """Keeps a group's evaluations, if that is worth while for the samples `accepted` `[n]` and there is room."""
        each = (tf.size(r, tf.int64) * r.dtype.size for r in residuals[0])
        size = len(residuals) * sum(each, tf.constant(0, tf.int64))
        share = tf.reduce_mean(tf.cast(accepted, tf.float32))
        keep = share >= WORTHWHILE_SHARE
        if self.limit is not None:
            keep &= self.bytes + size <= self.limit
        first = self._first(group)

        def written() -> list[tf.TensorArray]:
            arrays = self.arrays
            for e, evaluation in enumerate(residuals):
                place = first + e
                arrays = [a.write(place, tf.cast(r, a.dtype)) for a, r in zip(arrays, evaluation, strict=True)]
            return arrays

        # A linear dynamics leaves nothing.
        arrays = tf.cond(keep, written, lambda: self.arrays) if self.arrays else []
        flags = self.flags.write(group, keep)
        return self.having((arrays, flags, self.bytes + tf.where(keep, size, 0)))

    def is_kept(self, group: tf.Tensor | int) -> tf.Tensor:
        return self.flags.read(group)

    def read(self, group: tf.Tensor | int) -> list[list[tf.Tensor]]:
        """The residuals of each evaluation of a group that was kept."""
        count = 1 if isinstance(group, int) and group == 0 else self.per_group
        first, types = self._first(group), [r.dtype for r in self.split.residuals]

        def evaluation(place: tf.Tensor | int) -> list[tf.Tensor]:
            return [tf.cast(a.read(place), t) for a, t in zip(self.arrays, types, strict=True)]

        return [evaluation(first + e) for e in range(count)]

    def _first(self, group: tf.Tensor | int) -> tf.Tensor | int:
        return 0 if isinstance(group, int) and group == 0 else 1 + (group - 1) * self.per_group


def _stored(dtype: tf.DType) -> tf.DType:
    # TensorFlow types 32-bit shapes apart, and warns of an invalid graph where an array of numbers holds one.
    return tf.int64 if dtype == tf.int32 else dtype
