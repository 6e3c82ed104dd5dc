"""Gives a solve's outputs a gradient of our own, computed only for what is asked."""

import contextlib
import sys
from collections.abc import Callable

import tensorflow as tf
from tensorflow.python.eager import forwardprop_util, imperative_grad, record

from tfode_adv.solvers.closed_over import reads_what_was_read
from tfode_adv.solvers.graph_mode import current_graph
from tfode_adv.solvers.pull_back import Gradients

SECOND_DERIVATIVE = "second derivatives through an ODE solve are not implemented: its gradient is a constant to them"
FORWARD_MODE = "forward-mode derivatives (ForwardAccumulator) of an ODE solve are not implemented: use a GradientTape"

PullBack = Callable[[list[tf.Tensor], bool], Gradients]


def stop_recording() -> contextlib.AbstractContextManager[None]:
    """No tape sees the operations inside: their gradient is given apart."""
    return record.stop_recording()


def differentiable(
    outputs: list[tf.Tensor],
    state: list[tf.Tensor],
    variables: list[tf.Variable],
    constants: list[tf.Tensor],
    pull_back: PullBack,
) -> list[tf.Tensor]:
    """`outputs` with gradients to `state`, `variables` and `constants`.

    The way to the parameters is an operation of its own, so that nothing is computed for them where only the
    state's gradient is asked for.

    Args:
        constants: floating or complex, those that the field closes over among them.
        pull_back: `pull_back(cotangents, with_parameters)`; parameters are the variables, then the constants.
    """
    parameters = [tf.convert_to_tensor(v) for v in variables] + constants
    memory: list[tuple[list[tf.Tensor], Gradients]] = []
    followed = bool(constants) and record.should_record_backprop(constants)
    graph = current_graph()
    if forwardprop_util.pack_tangents([*state, *parameters]).tangents:
        raise NotImplementedError(FORWARD_MODE)

    def recall(cotangents: list[tf.Tensor], with_parameters: bool) -> Gradients:
        for known, gradients in memory:
            if all(a is b for a, b in zip(known, cotangents, strict=True)):
                return gradients
        with reads_what_was_read(graph):
            gradients = _first_order(pull_back, cotangents, state, parameters, with_parameters)
        if with_parameters:
            memory.append((cotangents, gradients))
        return gradients

    @tf.custom_gradient
    def from_state(*rows):
        del rows
        return [tf.identity(o) for o in outputs], lambda *cotangents: recall(list(cotangents), False).state

    @tf.custom_gradient
    def from_parameters(*values):
        def gradient(*cotangents):
            # In another graph, a loop's derivative for one, no tape tells whether the constants lead anywhere.
            constants_count = followed or (constants and current_graph() is not graph)
            if not constants_count and not _asked_for(variables):
                return [None] * len(values)
            return recall(list(cotangents), True).parameters

        return [tf.zeros_like(o) for o in outputs], gradient

    @tf.custom_gradient
    def join(*pairs):
        count = len(pairs) // 2
        # The parameters' way comes first: it computes the state's gradient too, and the state's way recalls it.
        return [tf.identity(p) for p in pairs[:count]], lambda *cotangents: cotangents + cotangents

    reached = _as_list(from_state(*state))
    if not parameters:
        return reached
    return _as_list(join(*reached, *_as_list(from_parameters(*parameters))))


def _asked_for(variables: list[tf.Variable]) -> bool:
    """Whether the `GradientTape.gradient` being carried out has one of `variables` among its sources.

    A tape pulls back to all it has watched, by default every variable read, whatever its sources are, and tells
    gradient functions nothing of them. Variables have no sources of their own, so the question is answered by the
    tape's call itself, found on the stack. Where there is none (a compiled function's gradient, which is made
    before anyone asks) the answer is yes.
    """
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code is imperative_grad.imperative_grad.__code__:
            sources = {id(source) for source in tf.nest.flatten(frame.f_locals["sources"])}
            return any(id(v.handle) in sources for v in variables)
        frame = frame.f_back
    return True


def _first_order(pull_back, cotangents, state, parameters, with_parameters) -> Gradients:
    """The gradients, behind a guard that says so when they are differentiated again."""
    gradients = pull_back(cotangents, with_parameters)
    count = len(gradients.state)

    @tf.custom_gradient
    def guard(*sources):
        def refuse(*_):
            # Graphs are built for derivatives that nobody asks for: those fail only when they are run.
            if tf.executing_eagerly():
                raise NotImplementedError(SECOND_DERIVATIVE)
            with tf.control_dependencies([tf.debugging.Assert(False, [SECOND_DERIVATIVE])]):
                return [tf.zeros_like(s) for s in sources]

        return [tf.identity(g) for g in (*gradients.state, *gradients.parameters)], refuse

    flat = _as_list(guard(*cotangents, *state, *parameters))
    return Gradients(flat[:count], flat[count:])


def _as_list(value) -> list[tf.Tensor]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
