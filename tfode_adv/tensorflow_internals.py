"""TensorFlow's private interfaces: each is used here and nowhere else.

TensorFlow may change them in any version. `tests/test_tensorflow_internals.py` tells of each whether it is there and
does what is needed of it, so that an upgrade that breaks one is noticed before it gives a wrong gradient.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.function.polymorphism import function_type
from tensorflow.python import pywrap_tfe
from tensorflow.python.eager import forwardprop_util, imperative_grad, record
from tensorflow.python.eager.polymorphic_function.concrete_function import ConcreteFunction
from tensorflow.python.framework import func_graph, op_callbacks
from tensorflow.python.ops import control_flow_util
from tensorflow.python.ops.parallel_for import pfor
from tensorflow.python.saved_model import save_context

# Among the `experimental_attributes` of a `tf.function`: the graph optimisers leave its body where it is.
NOT_INLINED = {"_noinline": True}

# Asked of a forward result in the backward pass, these keep the answer and not the result.
_SMALL_ANSWERS = ("Shape", "ShapeN", "Size", "Rank")


def stop_recording() -> contextlib.AbstractContextManager[None]:
    """No tape sees the operations inside."""
    return record.stop_recording()


def recording_stopped() -> bool:
    """Whether tapes are told to see nothing."""
    return pywrap_tfe.TFE_Py_TapeSetIsStopped()


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """Tapes see the operations inside, within `stop_recording` too."""
    stopped = recording_stopped()
    if stopped:
        pywrap_tfe.TFE_Py_TapeSetRestartOnThread()
    try:
        yield
    finally:
        if stopped:
            pywrap_tfe.TFE_Py_TapeSetStopOnThread()


def could_record() -> bool:
    """Whether there is a tape that sees what is done now."""
    return record.could_possibly_record()


def is_followed(tensors: Sequence[tf.Tensor]) -> bool:
    """Whether a tape that is recording watches one of `tensors`, or what one was computed from."""
    return record.should_record_backprop(tensors)


def watching_variables() -> contextlib.AbstractContextManager[Any]:
    """What it enters has `watched_variables()`: the trainable ones that were read inside, where a tape could see it."""
    return record.VariableWatcher()


def sources_of_running_gradient() -> list[Any] | None:
    """The sources of the `GradientTape.gradient` being carried out, variables by their handles; None if none is.

    A tape tells gradient functions nothing of them, so they are looked up in its call, on the stack.
    """
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code is imperative_grad.imperative_grad.__code__:
            return tf.nest.flatten(frame.f_locals["sources"])
        frame = frame.f_back
    return None


def has_tangents(tensors: Sequence[tf.Tensor]) -> bool:
    """Whether a `tf.autodiff.ForwardAccumulator` follows one of `tensors`."""
    return bool(forwardprop_util.pack_tangents([*tensors]).tangents)


@contextlib.contextmanager
def watching_operations(look: Callable[[Sequence[tf.Tensor], Sequence[tf.Tensor]], None]) -> Iterator[None]:
    """Calls `look(inputs, outputs)` after every eager operation inside."""

    def callback(op_type, inputs, attrs, outputs, op_name=None, graph=None):
        del op_type, attrs, op_name
        if graph is None:
            look(inputs, outputs)

    op_callbacks.add_op_callback(callback)
    try:
        yield
    finally:
        op_callbacks.remove_op_callback(callback)


def compiled_by_xla(graph: tf.Graph) -> bool:
    """Whether `graph`, or one that it lies in, is built for XLA."""
    return control_flow_util.GraphOrParentsInXlaContext(graph)


def saving() -> bool:
    """Whether a SavedModel is being written."""
    return save_context.in_save_context()


def in_pfor_body(graph: tf.Graph) -> bool:
    """Whether `graph` is the body of a `pfor`, by which `tape.jacobian` and `tf.vectorized_map` vectorise."""
    return "loop_body" in graph.get_name_scope()


def let_pfor_loop(operation: tf.Operation) -> None:
    """A `pfor` that `operation` is in carries it out once a turn, in place of vectorising it."""
    operation.pfor_converter = pfor._fallback_converter


def captures(graph: tf.Graph) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """What the graph of a function takes from outside: each tensor there, and its stand-in inside."""
    return list(graph.captures)


class _BackwardGraph(func_graph.FuncGraph):
    """A graph that captures little of the forward one: no constants, nothing twice, sizes of what is only measured."""

    def __init__(self, name: str, forward: func_graph.FuncGraph):
        super().__init__(name)
        self._forward = forward
        self._answers: dict[tuple, tf.Operation] = {}
        self._shapes: dict[Any, tf.Tensor] = {}

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
            if tensor.op.type in ("Shape", "ShapeN"):
                return self._shape(tensor)
        return super().capture(tensor, name, shape)

    def _shape(self, tensor: tf.Tensor) -> tf.Tensor:
        """A shape that was asked for, its known sizes as constants: what is shaped by it has a known shape as well."""
        known = tensor.op.inputs[tensor.value_index].shape
        if known.is_fully_defined():
            return tf.constant(known.as_list(), tensor.dtype)
        if known.rank is None:
            return super().capture(tensor)
        if tensor.ref() not in self._shapes:
            sizes = super().capture(tensor)
            self._shapes[tensor.ref()] = tf.stack([sizes[i] if n is None else n for i, n in enumerate(known)])
        return self._shapes[tensor.ref()]


class BackwardFunction:
    """A function traced inside the one being built, which can be called with other tensors than those it captured.

    Of the function being built it captures little: no constants, nothing twice, the size of what it only measures.

    Attributes:
        captures: the tensors that it captured, in order.
    """

    def __init__(self, function: Callable, specs: Sequence[tf.TensorSpec]):
        """Traces `function`, from tensors like `specs` to a list of tensors."""
        graph = _BackwardGraph("backward", tf.compat.v1.get_default_graph())
        func_graph.func_graph_from_py_func(
            graph.name, function, args=[], kwargs={}, signature=list(specs), func_graph=graph
        )
        kind = function_type.from_structured_signature(
            ((), {}), graph.structured_outputs, graph.function_captures.capture_types
        )
        self._function = ConcreteFunction.from_func_graph(graph, kind, attrs={})
        self.captures: list[tf.Tensor] = list(self._function.captured_inputs)

    def __call__(self, arguments: list[tf.Tensor], captures: list[tf.Tensor]) -> list[tf.Tensor]:
        """Its results at `arguments`, with `captures` in the places of what it captured; no tape sees it."""
        with stop_recording():
            return list(self._function._call_flat(arguments, captures))


@contextlib.contextmanager
def reads_by_way_of(forward: tf.Graph | None) -> Iterator[None]:
    """What is built inside reads variables and outer tensors by way of the graph `forward`, which has read them.

    The derivative of a loop's body, or of a branch, may read what the body or branch has read, and nothing else.
    """
    graph = tf.compat.v1.get_default_graph()
    # A saved gradient is a function of its own, outside of any loop.
    apart = forward is None or graph is forward or saving()
    if apart or not hasattr(graph, "capture") or not hasattr(forward, "captures"):
        yield
        return
    plain = graph.capture

    def capture(tensor: tf.Tensor, *args: Any, **kwargs: Any) -> tf.Tensor:
        inner = _stand_in(forward, tensor)
        if inner is None:
            return plain(tensor, *args, **kwargs)
        captured = plain(inner)
        captured._record_tape(tensor)
        return captured

    graph.capture = capture
    try:
        yield
    finally:
        del graph.capture


def _stand_in(graph: tf.Graph, tensor: tf.Tensor) -> tf.Tensor | None:
    """What stands in `graph` for `tensor`, captured by it or by a graph around it whose own stand-in it captured."""
    if not hasattr(graph, "captures"):
        return None
    inside = {id(outer): inner for outer, inner in captures(graph)}
    if id(tensor) in inside:
        return inside[id(tensor)]
    around = _stand_in(graph.outer_graph, tensor)
    return None if around is None else inside.get(id(around))
