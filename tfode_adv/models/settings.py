"""Settings and statistics of every ODE block in a model."""

import weakref
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfode_adv.errors import check_choice, check_range
from tfode_adv.keras_internals import sublayers
from tfode_adv.layers import ODEBlock, record_statistics
from tfode_adv.layers.context import current_settings
from tfode_adv.layers.ode_block import CheckedSetting

SETTINGS = ("tol", "solver", "gradient", "num_steps")
# What a compiled function keeps as it was when it was traced.
TRACED = (
    "solver",
    "gradient",
    "final_time",
    "checkpoint",
    "adjoint_tol",
    "adjoint_solver",
    "max_num_steps",
    "on_failure",
    "endpoint",
    "min_step",
    "max_step",
)


class SolverStatistics(NamedTuple):
    """Counts per sample, summed over a model's ODE blocks; each an int array `[N]`."""

    nfe: np.ndarray
    accepted: np.ndarray
    rejected: np.ndarray


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
    except Exception:
        for block, values in zip(blocks, before, strict=True):
            _assign(block, values)
        raise
    if blocks and settings.keys() - {"tol", "num_steps"}:
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


def trace_settings(*models: Any) -> tuple:
    """What a trace of `models` depends on apart from their weights: their ODE blocks' settings.

    Tolerances and step counts are left out: a block reads its own at run time. Those of `solver_settings` are in.
    The blocks that a plain callable runs are not known: to it, every block's are its own.
    """
    unknown = any(callable(model) and not isinstance(model, keras.layers.Layer) for model in models)
    blocks = [block for model in models if isinstance(model, keras.layers.Layer) for block in ode_blocks(model)]
    own = tuple(getattr(block, name) for block in blocks for name in TRACED)
    own += (CheckedSetting.changes,) if unknown else ()
    return own + tuple((name, _key(value)) for name, value in current_settings().items())


def _key(value: Any) -> Any:
    # A trace keeps the tensors it reads, so that no other one takes their places in memory.
    return id(value) if tf.is_tensor(value) else str(value)


# One compiled function a model and set of settings: a table over tolerances traces once.
_counters = weakref.WeakKeyDictionary()


def _counter(model, image_shape):
    known = _counters.setdefault(model, {})
    key = (tuple(image_shape), trace_settings(model))
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
