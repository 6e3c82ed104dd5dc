"""Evaluations of a field that can be pulled back: cotangents of the slope become those of all it was computed from."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfode_adv.tensorflow_internals import recording


class Gradients(NamedTuple):
    """Cotangents of the initial rows, and of the parameters where they were asked for (else empty)."""

    state: list[tf.Tensor]
    parameters: list[tf.Tensor]


def without(lost: tf.Tensor, gradients: Gradients) -> Gradients:
    """NaN for the state of the samples whose gradient is `lost` `[B]`, and for all parameters if there is one.

    What the others add to a parameter's gradient is finite, and would be taken for the whole.
    """
    any_lost = tf.reduce_any(lost)
    parameters = [tf.where(any_lost, _nan(p), p) for p in gradients.parameters]
    masks = [tf.reshape(lost, [-1] + [1] * (r.shape.rank - 1)) for r in gradients.state]
    return Gradients([tf.where(m, _nan(r), r) for m, r in zip(masks, gradients.state, strict=True)], parameters)


def _nan(like: tf.Tensor) -> tf.Tensor:
    return tf.cast(float("nan"), like.dtype)


class Slope(NamedTuple):
    """One evaluation of a field, and the function that takes the slope's cotangents to their `Gradients`."""

    value: list[tf.Tensor] | None  # None where only the derivative is known
    pull_back: Callable[[list[tf.Tensor]], Gradients]


Evaluation = Callable[[tf.Tensor, list[tf.Tensor], list[Any]], Slope]
"""`evaluate(t, y, sources)`: one evaluation at rows `y`, which can be pulled back to them and to `sources`."""


def taped(function: Callable[[list[tf.Tensor]], list[tf.Tensor]], y: list[tf.Tensor], parameters: list[Any]) -> Slope:
    """Evaluates `function(y)`, which reads `parameters`, on a tape."""
    with recording(), tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(y)
        for parameter in parameters:
            tape.watch(parameter)
        slope = function(y)

    def pull_back(cotangents: list[tf.Tensor]) -> Gradients:
        flat = dense_gradients(tape, slope, [*y, *parameters], cotangents)
        return Gradients(flat[: len(y)], flat[len(y) :])

    return Slope(slope, pull_back)


def dense_gradients(
    tape: tf.GradientTape, targets: list[tf.Tensor], sources: Sequence[Any], cotangents: list[tf.Tensor]
) -> list[tf.Tensor]:
    """`tape.gradient`, with tensors of zeros for the sources that the targets do not depend on."""
    gradients = tape.gradient(targets, list(sources), cotangents)
    return [
        tf.zeros(tf.shape(source), source.dtype) if gradient is None else tf.convert_to_tensor(gradient)
        for source, gradient in zip(sources, gradients, strict=True)
    ]
