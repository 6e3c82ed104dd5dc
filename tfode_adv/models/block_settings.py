"""Settings and statistics of every ODE block in a model."""

import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfode_adv.errors import check_range
from tfode_adv.keras_internals import sublayers
from tfode_adv.layers import ODEBlock, record_statistics
from tfode_adv.models.oracle import Oracle
from tfode_adv.solvers import block_options


class SolverStatistics(NamedTuple):
    """Counts per sample, summed over a model's ODE blocks; each an int array `[N]`.

    Attributes:
        nfe: evaluations of the dynamics.
        accepted, rejected: steps.
        at_rest: accepted steps whose error estimate was exactly zero; it tells nothing of the gradient there.
    """

    nfe: np.ndarray
    accepted: np.ndarray
    rejected: np.ndarray
    at_rest: np.ndarray


def ode_blocks(model: keras.layers.Layer) -> list[ODEBlock]:
    """Every ODE block of a model, those of nested models and layers included, in the model's order."""
    # Keras's own walk through nested layers turns their order round.
    seen, found, ahead = set(), [], [model]
    while ahead:
        layer = ahead.pop()
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        if isinstance(layer, ODEBlock):
            found.append(layer)
        ahead += reversed(sublayers(layer, recursive=False))
    return found


def set_solver(model: keras.layers.Layer, **settings: Any) -> int:
    """Changes settings of every ODE block of any Keras model.

    A tolerance or a number of steps takes effect at once, in compiled functions too. A solver or gradient is part of a
    compiled function: `predict`, `evaluate` and `fit` are compiled anew, but a `tf.function` of your own that has
    already been traced keeps the setting it was traced with.

    Args:
        model: any Keras model or layer; nested ones are searched.
        **settings: those of `ODEBlock`, but for `final_time`; None leaves a setting as it is.

    Returns:
        How many ODE blocks there are.

    Raises:
        UsageError: an unknown setting or a value out of range; no block is changed then.
    """
    given, blocks = block_options.checked(settings), ode_blocks(model)
    change(model, [block.settings.override(**given) for block in blocks])
    # A block's own attribute may have been set before, which no compiled function notices.
    if blocks and any(option.name in given and not option.live for option in block_options.options()):
        _forget_compiled(model)
    return len(blocks)


def change(model: keras.layers.Layer, settings: Sequence[block_options.SolverSettings]) -> None:
    """Gives every ODE block of `model`, in its order, settings of its own, as `set_solver` does."""
    blocks = ode_blocks(model)
    before = [block.fixed for block in blocks]
    for block, each in zip(blocks, settings, strict=True):
        block.settings = each
    if before != [block.fixed for block in blocks]:
        _forget_compiled(model)


def _forget_compiled(model):
    for function in ("train_function", "test_function", "predict_function"):
        if getattr(model, function, None) is not None:
            setattr(model, function, None)


def solver_statistics(model: keras.layers.Layer, x: Any, batch_size: int = 128) -> SolverStatistics:
    """What the solvers did for each image, at the model's present settings and in inference mode.

    Args:
        model: any Keras model on images; nested ones are searched.
        x: images `[N, H, W, C]`.
        batch_size: images solved together, positive; the counts do not depend on it.

    Returns:
        NFE, accepted and rejected steps, and those at rest, each `[N]`; zeros for a model without ODE blocks.

    Raises:
        UsageError: batch_size is not positive.
    """
    check_range("batch_size", batch_size, low=1)
    # What is compiled must not keep its model alive, or no entry would ever leave the dictionary.
    reference = weakref.ref(model)

    def counts(images):
        with record_statistics() as records:
            reference()(images, training=False)
        zeros = tf.zeros([tf.shape(images)[0]], tf.int32)
        return [tf.add_n([zeros, *(getattr(block, name) for _, block in records)]) for name in SolverStatistics._fields]

    asked = _oracles.setdefault(model, Oracle(lambda images: reference()(images, training=False)))
    images = np.asarray(x, np.float32)
    return SolverStatistics(*asked.question("statistics", counts, {}, images, size=batch_size, asking=True))


_oracles: weakref.WeakKeyDictionary[keras.layers.Layer, Oracle] = weakref.WeakKeyDictionary()
