"""Settings and statistics of every ODE block in a model."""

import weakref
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfode_adv.errors import UsageError, check_choice, check_range
from tfode_adv.layers import ODEBlock, record_statistics

SETTINGS = ("tol", "solver", "gradient", "num_steps")


class SolverStatistics(NamedTuple):
    """Counts per sample, summed over a model's ODE blocks; each an int array `[N]`."""

    nfe: np.ndarray
    accepted: np.ndarray
    rejected: np.ndarray


def ode_blocks(model: keras.layers.Layer) -> list[ODEBlock]:
    """Every ODE block of a model, those of nested models and layers included, in the model's order."""
    return [layer for layer in model._flatten_layers() if isinstance(layer, ODEBlock)]


def set_solver(model: keras.layers.Layer, **settings: Any) -> int:
    """Changes settings of every ODE block of any Keras model.

    A tolerance takes effect at once, in compiled functions too. Any other setting is part of a compiled
    function: `predict`, `evaluate` and `fit` are compiled anew, but a `tf.function` of your own that has
    already been traced keeps the setting it was traced with.

    Args:
        model: any Keras model or layer; nested ones are searched.
        **settings: `tol`, `solver`, `gradient`, `num_steps`; None leaves a setting as it is.

    Returns:
        How many ODE blocks there are.

    Raises:
        UsageError: an unknown setting or a value out of range; no block is changed then.
    """
    for name in settings:
        check_choice("solver setting", name, SETTINGS)
    settings = {name: value for name, value in settings.items() if value is not None}
    blocks = ode_blocks(model)
    before = [{name: getattr(block, name) for name in settings} for block in blocks]
    try:
        for block in blocks:
            _assign(block, settings)
    except UsageError:
        for block, values in zip(blocks, before, strict=True):
            _assign(block, values)
        raise
    if blocks and settings.keys() - {"tol"}:
        _forget_compiled(model)
    return len(blocks)


def _assign(block, settings):
    for name, value in settings.items():
        setattr(block, name, value)


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
        NFE, accepted and rejected steps, each `[N]`; zeros for a model without ODE blocks.

    Raises:
        UsageError: batch_size is not positive.
    """
    check_range("batch_size", batch_size, low=1)
    x = np.asarray(x)
    count = _counter(model, x.shape[1:])
    starts = range(0, max(len(x), 1), batch_size)
    batches = [count(tf.constant(x[i : i + batch_size], tf.float32)).numpy() for i in starts]
    return SolverStatistics(*np.concatenate(batches, axis=1))


# One compiled function a model and set of settings: a table over tolerances traces once.
_counters = weakref.WeakKeyDictionary()


def _counter(model, image_shape):
    # Tolerances and numbers of steps are variables, which a trace reads anew.
    settings = tuple((block.solver, block.gradient) for block in ode_blocks(model))
    known = _counters.setdefault(model, {})
    key = (tuple(image_shape), settings)
    if key not in known:
        # The function must not keep its model alive, or no entry would ever leave the dictionary.
        reference = weakref.ref(model)

        @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, *image_shape])])
        def count(x):
            with record_statistics() as records:
                reference()(x, training=False)
            totals = tf.zeros([3, tf.shape(x)[0]], tf.int32)
            for _, statistics in records:
                totals += tf.stack([statistics.nfe, statistics.accepted, statistics.rejected])
            return totals

        known[key] = count
    return known[key]
