"""What a solve records for its backward pass: one state for each step, and perhaps the stages' residuals."""

import dataclasses
from typing import Any, NamedTuple

import tensorflow as tf

from tfode_adv.solvers.graph_mode import in_xla
from tfode_adv.solvers.loop_state import Attempt, Batch
from tfode_adv.solvers.residual_store import ResidualStore

# Under XLA every buffer has a fixed size; a longer recorded solve is a MAX_NUM_STEPS failure there.
XLA_MAX_RECORDED_STEPS = 128


class Step(NamedTuple):
    """An accepted step of m samples: their places in the batch, times, sizes and starts.

    Samples that did not take it are left out, or stand among the others with size 0.
    """

    index: tf.Tensor
    t: tf.Tensor
    t_next: tf.Tensor
    h: tf.Tensor
    y: list[tf.Tensor]

    @classmethod
    def of(cls, batch: Batch, attempt: Attempt, whole: bool | tf.Tensor) -> "Step":
        """Of the n steps of `attempt`, which started from `batch`; where `whole`, the rejected ones too."""
        accepted = attempt.accepted
        t_next = tf.where(accepted, attempt.t_next, batch.t)
        h = tf.where(accepted, attempt.h, tf.zeros_like(attempt.h))
        return _only(accepted, cls(batch.index, batch.t, t_next, h, batch.y), whole)

    @classmethod
    def dtypes(cls, time: tf.DType) -> list[tf.DType]:
        return [tf.int32, time, time, time]


class Trial(NamedTuple):
    """A step tried by m samples, whatever became of it: what the next step's size was computed from.

    Attributes:
        step: size proposed, before it may be clipped to land on the end.
        step_next: size proposed next.
        ratio: error ratio of the last accepted step before it.
        counts: whether it is one of a sample still integrated; only XLA keeps others.
    """

    index: tf.Tensor
    accepted: tf.Tensor
    counts: tf.Tensor
    t: tf.Tensor
    step: tf.Tensor
    step_next: tf.Tensor
    ratio: tf.Tensor
    y: list[tf.Tensor]

    @classmethod
    def of(cls, batch: Batch, attempt: Attempt, whole: bool | tf.Tensor) -> "Trial":
        counts = batch.active & ~attempt.failed
        tried = cls(batch.index, attempt.accepted, counts, batch.t, batch.step, attempt.step_next, batch.ratio, batch.y)
        return _only(counts, tried, whole)

    @classmethod
    def dtypes(cls, time: tf.DType) -> list[tf.DType]:
        return [tf.int32, tf.bool, tf.bool, time, time, time, time]


@dataclasses.dataclass(frozen=True)
class StepStore:
    """TensorArrays with one element an iteration of the solver's loop.

    Attributes:
        kind: `Step` or `Trial`.
        size: number of elements under XLA, which wants it fixed.
        kept: the intermediate results of the evaluations, or None where the steps are to be recomputed.
        count: number of elements written, once the loop is done.
    """

    kind: type
    arrays: Any
    size: int | None
    kept: ResidualStore | None = None
    count: tf.Tensor | None = None

    @classmethod
    def empty(cls, kind: type, y0: list[tf.Tensor], time: tf.DType, kept: ResidualStore | None = None) -> "StepStore":
        size = XLA_MAX_RECORDED_STEPS if in_xla() else None

        def array(dtype: tf.DType, shape: tf.TensorShape) -> tf.TensorArray:
            return tf.TensorArray(
                dtype,
                size=size or 0,
                dynamic_size=size is None,
                clear_after_read=False,
                infer_shape=False,
                element_shape=shape,
            )

        rows = y0[0].shape[:1] if size is not None else tf.TensorShape([None])
        vectors = [array(d, rows) for d in kind.dtypes(time)]
        return cls(kind, kind(*vectors, [array(c.dtype, rows + c.shape[1:]) for c in y0]), size, kept)

    @property
    def variables(self) -> tuple:
        """What changes over the loop."""
        return self.arrays, self.kept.variables if self.kept else ()

    def having(self, variables: tuple, count: tf.Tensor | None = None) -> "StepStore":
        arrays, kept = variables
        return dataclasses.replace(self, arrays=arrays, kept=self.kept and self.kept.having(kept), count=count)

    def write_start(self, residuals: list[list[tf.Tensor]], good: tf.Tensor) -> "StepStore":
        """Adds the evaluation of the initial slope, if it was kept at all."""
        if not (self.kept and residuals):
            return self
        return dataclasses.replace(self, kept=self.kept.write(0, residuals, good))

    def write(
        self,
        i: tf.Tensor,
        batch: Batch,
        attempt: Attempt,
        residuals: list[list[tf.Tensor]],
        whole: bool | tf.Tensor = False,
    ) -> "StepStore":
        """Adds what is kept of the n steps of `attempt`, which started from `batch`, as element `i`.

        Args:
            whole: whether the samples that did not take the step stand among the others.
        """
        whole, kept = self.size is not None or whole, self.kept
        if kept:
            kept = kept.write(i + 1, residuals, attempt.accepted)
            whole = whole or kept.is_kept(i + 1) if isinstance(whole, bool) else whole | kept.is_kept(i + 1)
        step = self.kind.of(batch, attempt, whole)
        arrays = tf.nest.map_structure(lambda array, value: array.write(i, value), self.arrays, step)
        return dataclasses.replace(self, arrays=arrays, kept=kept)

    def read(self, i: tf.Tensor) -> Any:
        return tf.nest.map_structure(lambda array: array.read(i), self.arrays)


def _only(where: tf.Tensor, steps: Any, whole: bool | tf.Tensor) -> Any:
    """The `steps` of the samples selected by `where` `[n]`, or those of all."""

    def gathered() -> Any:
        positions = tf.where(where)[:, 0]
        return tf.nest.map_structure(lambda x: tf.gather(x, positions), steps)

    return steps if whole is True else tf.cond(tf.reduce_all(where) | whole, lambda: steps, gathered)
