"""Gives a solve's outputs a gradient of our own, computed only for what is asked."""

from collections.abc import Callable

import tensorflow as tf

from tfode_adv.solvers.graph_mode import current_graph
from tfode_adv.solvers.pull_back import Gradients
from tfode_adv.tensorflow_internals import (
    has_tangents,
    is_followed,
    reads_by_way_of,
    sources_of_running_gradient,
    stop_recording,
)

SECOND_DERIVATIVE = "second derivatives through an ODE solve are not implemented: its gradient is a constant to them"
FORWARD_MODE = "forward-mode derivatives (ForwardAccumulator) of an ODE solve are not implemented: use a GradientTape"

PullBack = Callable[[list[tf.Tensor], bool], Gradients]


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
    followed = bool(constants) and is_followed(constants)
    graph = current_graph()
    if has_tangents([*state, *parameters]):
        raise NotImplementedError(FORWARD_MODE)

    def recall(cotangents: list[tf.Tensor], with_parameters: bool) -> Gradients:
        for known, gradients in memory:
            if all(a is b for a, b in zip(known, cotangents, strict=True)):
                return gradients
        with reads_by_way_of(graph):
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
    tape's call itself. Where there is none (a compiled function's gradient, which is made before anyone asks) the
    answer is yes.
    """
    sources = sources_of_running_gradient()
    if sources is None:
        return True
    asked_for = {id(source) for source in sources}
    return any(id(v.handle) in asked_for for v in variables)


def _first_order(pull_back, cotangents, state, parameters, with_parameters) -> Gradients:
    """The gradients, behind a guard that says so when they are differentiated again."""
    # For a persistent tape TensorFlow derives every function called on the way again and again, for minutes.
    with stop_recording():
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
