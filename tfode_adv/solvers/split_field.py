"""A field split in two: a forward function that hands out what its derivative needs, and functions that use it.

TensorFlow splits every differentiated function like this, but keeps the intermediate results inside one call. Here
they are tensors to be stored, over a loop's iterations, so the pair is made by hand: the backward functions are traced
inside the forward one, and what they capture of it becomes its further outputs. This file alone uses TensorFlow's
private interface for that; `tf.function` has no way to call a function with other captures.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.function.polymorphism import function_type
from tensorflow.python.eager import record
from tensorflow.python.eager.polymorphic_function.concrete_function import ConcreteFunction
from tensorflow.python.framework import func_graph

from tfode_adv.solvers.pull_back import Gradients, Slope, dense_gradients

# Asked of a forward result in the backward pass, these keep the answer and not the result.
_SMALL_ANSWERS = ("Shape", "ShapeN", "Size", "Rank")


class _BackwardGraph(func_graph.FuncGraph):
    """A graph that captures little of the forward one: no constants, nothing twice, sizes of what is only measured."""

    def __init__(self, name: str, forward: func_graph.FuncGraph):
        super().__init__(name)
        self._forward = forward
        self._answers: dict[tuple, tf.Operation] = {}

    def _create_op_internal(
        self, op_type, inputs, dtypes=None, input_types=None, name=None, attrs=None, op_def=None, compute_device=True
    ):
        others = attrs, op_def, compute_device
        if op_type not in _SMALL_ANSWERS or any(x.graph is not self._forward for x in inputs):
            return super()._create_op_internal(op_type, inputs, dtypes, input_types, name, *others)
        key = (op_type, *(x.ref() for x in inputs), str(attrs))
        if key not in self._answers:
            with self._forward.as_default():
                create = self._forward._create_op_internal
                self._answers[key] = create(op_type, inputs, dtypes, input_types, None, *others)
        return self._answers[key]

    def capture(self, tensor, name=None, shape=None):
        if getattr(tensor, "graph", None) is self._forward:
            while tensor.op.type in ("Identity", "IdentityN"):
                tensor = tensor.op.inputs[tensor.value_index]
            if tensor.op.type == "Const":
                return tf.constant(tf.get_static_value(tensor), tensor.dtype)
        return super().capture(tensor, name, shape)


class _Backward:
    """Cotangents of a slope pulled back to `sources`, from residuals numbered among those of the forward function."""

    def __init__(self, tape: tf.GradientTape, slope: list[tf.Tensor], sources: Sequence[Any]):
        forward = tf.compat.v1.get_default_graph()
        graph = _BackwardGraph("pull_back", forward)
        func_graph.func_graph_from_py_func(
            graph.name,
            lambda *cotangents: dense_gradients(tape, slope, sources, list(cotangents)),
            args=[],
            kwargs={},
            signature=[tf.TensorSpec(s.shape, s.dtype) for s in slope],
            func_graph=graph,
        )
        kind = function_type.from_structured_signature(
            ((), {}), graph.structured_outputs, graph.function_captures.capture_types
        )
        self._function = ConcreteFunction.from_func_graph(graph, kind, attrs={})
        self._captures = list(self._function.captured_inputs)
        self._places: list[int | None] = []

    def number(self, residuals: list[tf.Tensor], forward: func_graph.FuncGraph) -> None:
        """Adds what is captured to `residuals`, unless it is the same for all evaluations."""
        constant = {id(inner): outer for outer, inner in forward.captures}
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
        with record.stop_recording():
            return list(self._function._call_flat(cotangents, captured))


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
            with to_rows, to_all:
                to_rows.watch(y)
                closed_over = followed[len(constants) :]
                to_all.watch([*y, *own, *closed_over])
                slope = field(t, list(y), own)
            parameters = variables()
            pullers = {False: _Backward(to_rows, slope, y)}
            # A tape that watches accessed variables, as training does, has noticed them by now.
            handles = [v.handle for v in parameters] + followed
            if to_parameters or (to_parameters is None and handles and record.should_record_backprop(handles)):
                pullers[True] = _Backward(to_all, slope, [*y, *parameters, *own, *closed_over])
            graph, residuals = tf.compat.v1.get_default_graph(), []
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
        with record.stop_recording():
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
