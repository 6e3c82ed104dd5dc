"""A field split in two: a forward function that hands out what its derivative needs, and functions that use it.

TensorFlow splits every differentiated function like this, but keeps the intermediate results inside one call. Here
they are tensors to be stored, over a loop's iterations, so the pair is made by hand: the backward functions are traced
inside the forward one, and what they capture of it becomes its further outputs. `tf.function` has no
way to call a function with other captures: `tfode_adv.tensorflow_internals` has one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfode_adv.solvers.pull_back import Gradients, Slope, dense_gradients
from tfode_adv.tensorflow_internals import BackwardFunction, captures, is_followed, recording, stop_recording


class _Backward:
    """Cotangents of a slope pulled back to `sources`, from residuals numbered among those of the forward function."""

    def __init__(self, tape: tf.GradientTape, slope: list[tf.Tensor], sources: Sequence[Any]):
        self._function = BackwardFunction(
            lambda *cotangents: dense_gradients(tape, slope, sources, list(cotangents)),
            [tf.TensorSpec(s.shape, s.dtype) for s in slope],
        )
        self._captures = list(self._function.captures)
        self._places: list[int | None] = []

    def number(self, residuals: list[tf.Tensor], forward: tf.Graph) -> None:
        """Adds what is captured to `residuals`, unless it is the same for all evaluations."""
        constant = {id(inner): outer for outer, inner in captures(forward)}
        known = {id(r): i for i, r in enumerate(residuals)}
        for i, tensor in enumerate(self._captures):
            self._captures[i] = constant.get(id(tensor), tensor)
            if getattr(tensor, "graph", None) is not forward or id(tensor) in constant:
                self._places.append(None)
                continue
            if id(tensor) not in known:
                known[id(tensor)] = len(residuals)
                residuals.append(tensor)
            self._places.append(known[id(tensor)])

    def __call__(self, residuals: list[tf.Tensor], cotangents: list[tf.Tensor]) -> list[tf.Tensor]:
        captured = [
            c if place is None else residuals[place] for c, place in zip(self._captures, self._places, strict=True)
        ]
        return self._function(cotangents, captured)


class SplitField:
    """A field whose evaluations can be pulled back later, from tensors it returns beside the slope.

    Attributes:
        residuals: the specifications of those tensors.
        storable: whether they can all be stored; a dynamics with loops or branches inside leaves some that cannot.
    """

    def __init__(
        self,
        field: Callable[[tf.Tensor, list[tf.Tensor], list[tf.Tensor]], list[tf.Tensor]],
        variables: Callable[[], list[tf.Variable]],
        constants: list[tf.Tensor],
        followed: list[tf.Tensor],
        t: tf.Tensor,
        y: list[tf.Tensor],
        to_parameters: bool | None = None,
    ):
        """Traces the field and its derivatives in the current graph.

        Args:
            field: `field(t, y, constants)`, with times `[n]` and rows `[n, ...]` for any n.
            variables: the trainable variables it has read so far.
            constants: tensors.
            followed: the constants, and the tensors besides that the field closes over.
            t, y: an example of what it is called with.
            to_parameters: whether to derive by variables and `followed` too; None: if a tape watches one of them.
        """
        self._rows = len(y)
        traced = {}

        def forward(t: tf.Tensor, *y: tf.Tensor) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
            own = [tf.identity(c) for c in constants]
            to_rows = tf.GradientTape(watch_accessed_variables=False, persistent=True)
            to_all = tf.GradientTape(persistent=True)
            with recording(), to_rows, to_all:
                to_rows.watch(y)
                closed_over = followed[len(constants) :]
                to_all.watch([*y, *own, *closed_over])
                slope = field(t, list(y), own)
            parameters = variables()
            pullers = {False: _Backward(to_rows, slope, y)}
            # A tape that watches accessed variables, as training does, has noticed them by now.
            handles = [v.handle for v in parameters] + followed
            if to_parameters or (to_parameters is None and handles and is_followed(handles)):
                pullers[True] = _Backward(to_all, slope, [*y, *parameters, *own, *closed_over])
            graph = tf.compat.v1.get_default_graph()
            residuals: list[tf.Tensor] = []
            for puller in pullers.values():
                puller.number(residuals, graph)
            traced[id(graph)] = pullers
            return slope, residuals

        specs = [tf.TensorSpec([None, *x.shape[1:]], x.dtype) for x in (t, *y)]
        self._forward = tf.function(forward, autograph=False).get_concrete_function(*specs)
        self._pull_back = traced[id(self._forward.graph)]
        self.residuals = self._forward.structured_outputs[1]
        self.storable = all(r.dtype not in (tf.resource, tf.variant) for r in self.residuals)

    def __call__(self, t: tf.Tensor, y: list[tf.Tensor]) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """The slope, and the residuals."""
        with stop_recording():
            return self._forward(t, *y)

    @property
    def to_parameters(self) -> bool:
        """Whether it is derived by variables and followed tensors."""
        return True in self._pull_back

    def slope(self, t: tf.Tensor, y: list[tf.Tensor], with_parameters: bool) -> Slope:
        """An evaluation that is pulled back at once."""
        value, residuals = self(t, y)
        return Slope(value, lambda cotangents: self.pull_back(residuals, cotangents, with_parameters))

    def pull_back(self, residuals: list[tf.Tensor], cotangents: list[tf.Tensor], with_parameters: bool) -> Gradients:
        """Cotangents of the rows, and of variables and followed tensors where asked for, from those of the slope."""
        flat = self._pull_back[with_parameters](residuals, cotangents)
        return Gradients(flat[: self._rows], flat[self._rows :])
