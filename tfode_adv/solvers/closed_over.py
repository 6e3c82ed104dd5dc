"""What a field reads beside its arguments: variables, and tensors that the user's function closes over."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from tfode_adv.solvers.graph_mode import in_xla
from tfode_adv.solvers.runge_kutta import Field
from tfode_adv.tensorflow_internals import (
    captures,
    is_followed,
    recording,
    watching_operations,
    watching_variables,
)


class Reading:
    """Collects what is read inside `reading` blocks, or by `trace`, in the order of its first reading.

    Tapes see the blocks: a dynamics may have a tape of its own, and a `tf.function` that was traced before names its
    variables only where one could record the call. Hand a block tensors that no tape around the solve follows: such
    a tape then drops what it has seen as soon as the slope is gone.

    Attributes:
        variables: the trainable ones.
        tensors: of any type; constants of the graph that they are read in are left out.
        followed: those of `tensors` that may have a gradient: eagerly, if a tape follows them.
        began: whether anything was read.
    """

    def __init__(self):
        self.variables: list[tf.Variable] = []
        self.tensors: list[tf.Tensor] = []
        self.followed: list[tf.Tensor] = []
        self.began = False

    @contextlib.contextmanager
    def reading(self, *arguments: Any) -> Iterator[None]:
        """Everything read inside is noted; eagerly the tensors too, but for the `arguments`."""
        self.began = True
        watching = self._watching(tf.nest.flatten(arguments)) if tf.executing_eagerly() else contextlib.nullcontext()
        with recording(), watching, watching_variables() as watcher:
            yield
        self._add(self.variables, watcher.watched_variables())

    def trace(self, field: Field, t: tf.Tensor, y: list[tf.Tensor]) -> Field:
        """Notes what `field` reads at tensors like `t` and `y`, while a graph is built.

        Returns:
            The field as one function of that graph, for any number of rows; under XLA, for as many.
        """
        specs = [tf.TensorSpec([x.shape[0] if in_xla() else None, *x.shape[1:]], x.dtype) for x in (t, *y)]
        traced = tf.function(lambda t, *y: field(t, list(y)), autograph=False).get_concrete_function(*specs)
        tensors = [x for x, _ in captures(traced.graph) if x.dtype not in (tf.resource, tf.variant)]
        self._add(self.tensors, [x for x in tensors if hasattr(x, "numpy") or x.op.type != "Const"])
        self._add(self.followed, [x for x in self.tensors if has_gradient(x)])
        return lambda t, y: traced(t, *y)

    def _watching(self, arguments: list[tf.Tensor]) -> contextlib.AbstractContextManager[None]:
        """Every eager operation inside is looked at: what it takes that none made is read from elsewhere."""
        # References, since the place in memory of what is gone may be taken again.
        known = {id(x): x for x in arguments}

        def look(inputs: Sequence[tf.Tensor], outputs: Sequence[tf.Tensor]) -> None:
            read = [x for x in inputs if id(x) not in known and x.dtype not in (tf.resource, tf.variant)]
            known.update((id(x), x) for x in (*inputs, *outputs))
            self._add(self.tensors, read)
            self._add(self.followed, [x for x in read if has_gradient(x) and is_followed([x])])

        return watching_operations(look)

    def _add(self, to: list, found: Any) -> None:
        if not found:
            return  # as after nearly every eager operation
        known = {id(x) for x in to}
        to += [x for x in found if id(x) not in known]

    def one_a_sample(self, constants: list[tf.Tensor], rows: list[tf.Tensor]) -> bool | tf.Tensor:
        """Whether something read may hold one entry for each sample of `rows` `[B, ...]`: it has B of them.

        Weights may have as many by chance, so that nothing is taken apart: samples that are done stay among the
        others, where each finds its own entry. Of variables only those of as many axes as the state count.
        """
        static, full = rows[0].shape[0], tf.shape(rows[0])[0]
        if static == 1:
            return False
        ranks = {r.shape.rank for r in rows}
        read = [*constants, *self.tensors, *(v for v in self.variables if v.shape.rank in ranks)]
        unsure = []
        for x in read:
            if x.shape.rank is not None and (x.shape.rank == 0 or x.shape[0] == 1):
                continue
            count = None if x.shape.rank is None else x.shape[0]
            if count is None or static is None:
                unsure.append(tf.equal(tf.shape(x)[0], full))
            elif count == static:
                return True
        return tf.reduce_any(unsure) if unsure else False


def has_gradient(x: tf.Tensor) -> bool:
    return x.dtype.is_floating or x.dtype.is_complex
