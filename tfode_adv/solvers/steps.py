"""The accepted steps of a solve, kept for its backward pass: one state a step, and nothing of rejected steps."""

import dataclasses
from typing import NamedTuple

import tensorflow as tf


class Step(NamedTuple):
    """An accepted step of m samples: their places in the batch, times, sizes and starts."""

    index: tf.Tensor
    t: tf.Tensor
    t_next: tf.Tensor
    h: tf.Tensor
    y: list[tf.Tensor]


@dataclasses.dataclass(frozen=True)
class StepStore:
    """TensorArrays with one element an iteration of the solver's loop.

    Attributes:
        size: number of elements under XLA, which wants it fixed and keeps rejected steps too, with size 0.
        count: number of elements written, once the loop is done.
    """

    arrays: Step
    size: int | None
    count: tf.Tensor | None = None

    @classmethod
    def empty(cls, y0: list[tf.Tensor], dtype: tf.DType, size: int | None) -> "StepStore":
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
        vectors = [array(d, rows) for d in (tf.int32, dtype, dtype, dtype)]
        return cls(Step(*vectors, [array(c.dtype, rows + c.shape[1:]) for c in y0]), size)

    def write(self, arrays: Step, i: tf.Tensor, batch, attempt) -> Step:
        """Adds the accepted ones of the n steps of `attempt`, which started from `batch`, as element `i`."""
        accepted = attempt.accepted
        whole = Step(batch.index, batch.t, attempt.t_next, attempt.h, batch.y)
        if self.size is not None:
            still = Step(whole.index, whole.t, whole.t, tf.zeros_like(whole.h), whole.y)
            step = whole._replace(
                t_next=tf.where(accepted, whole.t_next, still.t_next), h=tf.where(accepted, whole.h, still.h)
            )
        else:

            def only_accepted() -> Step:
                positions = tf.where(accepted)[:, 0]
                return tf.nest.map_structure(lambda x: tf.gather(x, positions), whole)

            step = tf.cond(tf.reduce_all(accepted), lambda: whole, only_accepted)
        return tf.nest.map_structure(lambda array, value: array.write(i, value), arrays, step)

    def finished(self, arrays: Step, count: tf.Tensor) -> "StepStore":
        return dataclasses.replace(self, arrays=arrays, count=count)

    def read(self, i: tf.Tensor) -> Step:
        return tf.nest.map_structure(lambda array: array.read(i), self.arrays)
