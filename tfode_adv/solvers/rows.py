"""The solvers' own view of a state: a list of tensors whose first axis counts the samples.

Users hand over nested structures with any number of batch dimensions, or none, in any floating-point type.
`Rows` translates both ways, and turns the user's `ode_fn(t, y, **constants)` into `f(t, rows, constants)`.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfode_adv.errors import UsageError, WrongType
from tfode_adv.solvers.runge_kutta import exact

_HALF = (tf.float16, tf.bfloat16)


class Rows:
    """Translates between the user's state and the solvers' rows.

    Attributes:
        dtype: real type of times, step sizes and error norms. Half-precision states are integrated in float32:
            only the dynamics sees half precision.
    """

    def __init__(self, ode_fn: Callable, initial_state: Any, batch_ndims: int | None):
        self._ode_fn = ode_fn
        self._state = tf.nest.map_structure(tf.convert_to_tensor, initial_state)
        self._flat = tf.nest.flatten(self._state)
        self._batch_ndims = batch_ndims or 0
        for component in self._flat:
            if not (component.dtype.is_floating or component.dtype.is_complex):
                raise WrongType(f"initial_state has dtype {component.dtype.name}, but must be floating or complex")
            if component.shape.rank is not None and component.shape.rank < self._batch_ndims:
                raise UsageError(
                    f"initial_state has shape {component.shape}, but batch_ndims={batch_ndims} needs more axes"
                )
        sizes = {
            str(c.shape[: self._batch_ndims]) for c in self._flat if c.shape[: self._batch_ndims].is_fully_defined()
        }
        if len(sizes) > 1:
            raise UsageError(f"initial_state has components of unlike batches, {' and '.join(sorted(sizes))}")
        self._time_dtype = max((c.dtype.real_dtype for c in self._flat), key=lambda dtype: dtype.size)
        self._row_dtypes = [tf.float32 if c.dtype in _HALF else c.dtype for c in self._flat]
        real = [d.real_dtype for d in self._row_dtypes]
        self.dtype = tf.float64 if tf.float64 in real else tf.float32

    def initial(self) -> list[tf.Tensor]:
        with tf.control_dependencies(self._alike()):
            return [
                tf.cast(self._to_rows(tf.identity(c), self._batch_ndims), d)
                for c, d in zip(self._flat, self._row_dtypes, strict=True)
            ]

    def _alike(self) -> list[tf.Operation]:
        """A check at run time that the components have as many samples, where that is not known before."""
        n = self._batch_ndims
        if all(c.shape[:n].is_fully_defined() for c in self._flat):
            return []
        first, *others = (tf.shape(c)[:n] for c in self._flat)
        words = "initial_state has components of unlike batches,"
        return [tf.debugging.Assert(tf.reduce_all(tf.equal(first, other)), [words, first, other]) for other in others]

    def _to_rows(self, x: tf.Tensor, batch_ndims: int) -> tf.Tensor:
        if batch_ndims == 0:
            return x[tf.newaxis]
        if batch_ndims == 1:
            return x
        static = x.shape[batch_ndims:]
        rows = tf.reshape(x, tf.concat([[-1], tf.shape(x)[batch_ndims:]], 0))
        return tf.ensure_shape(rows, [None, *static])

    def _from_rows(self, rows: tf.Tensor, component: int, leading: int = 0) -> tf.Tensor:
        """Undoes `_to_rows` for an array with `leading` extra axes in front."""
        if self._batch_ndims == 1:
            return rows
        if self._batch_ndims == 0:
            return tf.squeeze(rows, [leading])
        batch = tf.shape(self._flat[component])[: self._batch_ndims]
        shape = tf.shape(rows)
        return tf.reshape(rows, tf.concat([shape[:leading], batch, shape[leading + 1 :]], 0))

    def states(self, rows: list[tf.Tensor]) -> Any:
        """Rows `[T, B, ...]` as the user's structure and types, `[T, *batch, ...]`."""
        flat = [
            tf.cast(self._from_rows(r, i, leading=1), c.dtype)
            for i, (r, c) in enumerate(zip(rows, self._flat, strict=True))
        ]
        return tf.nest.pack_sequence_as(self._state, flat)

    def per_sample(self, value: tf.Tensor) -> tf.Tensor:
        """A value a row, `[B]`, as `[*batch]` (a scalar where there are no batch dimensions)."""
        return self._from_rows(value, 0)

    def sample_values(self, value: Any, dtype: tf.DType) -> tf.Tensor:
        """A scalar, or one value a sample in the user's batch shape, as one value a row, `[B]`."""
        value = exact(value, dtype)
        count = tf.shape(self.initial()[0])[0] if self._batch_ndims != 1 else tf.shape(self._flat[0])[0]
        if value.shape.rank == 0:
            return tf.fill([count], value)
        batch = self._flat[0].shape[: self._batch_ndims]
        if not value.shape.is_compatible_with(batch):
            raise UsageError(f"one value a sample has shape {value.shape}, but the batch has {batch}")
        return tf.reshape(value, [count]) if self._batch_ndims != 1 else value

    def field(self, t: tf.Tensor, rows: list[tf.Tensor], constants: dict[str, Any]) -> list[tf.Tensor]:
        """The slopes at `rows` `[m, ...]`, each sample at its own time `t` `[m]`.

        The user's function sees a scalar time where the batch is coupled, else times shaped to broadcast
        against the first component of the state. Of several batch dimensions the first counts the samples and the
        others are 1: there may be fewer samples than the batch had.
        """
        n = self._batch_ndims
        values = []
        for r, c in zip(rows, self._flat, strict=True):
            if n == 0:
                r = tf.squeeze(r, [0])
            for _ in range(1, n):
                r = r[:, tf.newaxis]
            values.append(tf.cast(r, c.dtype))
        t = tf.cast(t, self._time_dtype)
        if n == 0:
            time = t[0]
        else:
            ones = tf.ones([values[0].shape.rank - 1], tf.int32)
            time = tf.reshape(t, tf.concat([tf.shape(values[0])[:1], ones], 0))
        slope = self._ode_fn(time, tf.nest.pack_sequence_as(self._state, values), **constants)
        return self._slope_rows(slope, values)

    def _of_equal_shape(self, slope: tf.TensorShape, state: tf.TensorShape) -> bool:
        # One row is not one for each of any number of samples, though TensorFlow finds the shapes compatible.
        single = self._batch_ndims and state.rank and state[0] is None and self._flat[0].shape[0] != 1
        return slope.is_compatible_with(state) and not (single and slope.rank and slope[0] == 1)

    def _slope_rows(self, slope: Any, values: list[tf.Tensor]) -> list[tf.Tensor]:
        if any(s is None for s in tf.nest.flatten(slope)):
            raise UsageError(f"the dynamics returned {slope!r}, but must return a slope of the state's structure")
        try:
            # A list will do for a tuple: a model loaded from its file passes lists where it passed tuples.
            tf.nest.assert_same_structure(self._state, slope, check_types=False)
        except (TypeError, ValueError):
            raise UsageError(
                f"the dynamics returned {_describe(slope)}, but must return the structure of the state, "
                f"{_describe(self._state)}"
            ) from None
        # Whole numbers that are no tensor are meant in the state's type; a tensor of them has lost its fractions.
        flat = [
            tf.convert_to_tensor(s, dtype_hint=v.dtype) for s, v in zip(tf.nest.flatten(slope), values, strict=True)
        ]
        for s, v in zip(flat, values, strict=True):
            if not (s.dtype.is_floating or s.dtype.is_complex) or (s.dtype.is_complex and not v.dtype.is_complex):
                raise WrongType(
                    f"the dynamics returned dtype {s.dtype.name} for a state of {v.dtype.name}, but a slope must be "
                    + ("floating or complex" if v.dtype.is_complex else "floating")
                )
            if not self._of_equal_shape(s.shape, v.shape):
                raise UsageError(
                    f"the dynamics returned shape {s.shape} for a state of shape {v.shape}, but they must be equal"
                )
        return [tf.cast(self._to_rows(s, self._batch_ndims), d) for s, d in zip(flat, self._row_dtypes, strict=True)]


def _describe(structure: Any) -> str:
    return str(tf.nest.map_structure(lambda x: tuple(getattr(x, "shape", ())), structure))
