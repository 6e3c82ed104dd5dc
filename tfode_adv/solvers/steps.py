"""What a solve keeps for its backward pass: one state for each step."""

import dataclasses
from typing import Any, NamedTuple

import tensorflow as tf


class Step(NamedTuple):
    """An accepted step of m samples: their places in the batch, times, sizes and starts. Rejected ones are left out."""

    index: tf.Tensor
    t: tf.Tensor
    t_next: tf.Tensor
    h: tf.Tensor
    y: list[tf.Tensor]

    @classmethod
    def of(cls, batch, attempt, fixed_size: bool) -> "Step":
        """Of the n steps of `attempt`, which started from `batch`; XLA keeps the rejected ones, with size 0."""
        accepted = attempt.accepted
        whole = cls(batch.index, batch.t, attempt.t_next, attempt.h, batch.y)
        if fixed_size:
            return whole._replace(
                t_next=tf.where(accepted, whole.t_next, whole.t), h=tf.where(accepted, whole.h, tf.zeros_like(whole.h))
            )
        return _only(accepted, whole)

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
    def of(cls, batch, attempt, fixed_size: bool) -> "Trial":
        counts = batch.active & ~attempt.failed
        whole = cls(batch.index, attempt.accepted, counts, batch.t, batch.step, attempt.step_next, batch.ratio, batch.y)
        return whole if fixed_size else _only(counts, whole)

    @classmethod
    def dtypes(cls, time: tf.DType) -> list[tf.DType]:
        return [tf.int32, tf.bool, tf.bool, time, time, time, time]


@dataclasses.dataclass(frozen=True)
class StepStore:
    """TensorArrays with one element an iteration of the solver's loop.

    Attributes:
        kind: `Step` or `Trial`.
        size: number of elements under XLA, which wants it fixed.
        count: number of elements written, once the loop is done.
    """

    kind: type
    arrays: Any
    size: int | None
    count: tf.Tensor | None = None

    @classmethod
    def empty(cls, kind: type, y0: list[tf.Tensor], time: tf.DType, size: int | None) -> "StepStore":
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
        return cls(kind, kind(*vectors, [array(c.dtype, rows + c.shape[1:]) for c in y0]), size)

    def write(self, arrays: Any, i: tf.Tensor, batch, attempt) -> Any:
        """Adds what is kept of the n steps of `attempt`, which started from `batch`, as element `i`."""
        kept = self.kind.of(batch, attempt, self.size is not None)
        return tf.nest.map_structure(lambda array, value: array.write(i, value), arrays, kept)

    def finished(self, arrays: Any, count: tf.Tensor) -> "StepStore":
        return dataclasses.replace(self, arrays=arrays, count=count)

    def read(self, i: tf.Tensor) -> Any:
        return tf.nest.map_structure(lambda array: array.read(i), self.arrays)


def _only(where: tf.Tensor, whole: Any) -> Any:
    def gathered() -> Any:
        positions = tf.where(where)[:, 0]
        return tf.nest.map_structure(lambda x: tf.gather(x, positions), whole)

    return tf.cond(tf.reduce_all(where), lambda: whole, gathered)
