"""Keras's private interfaces: each is used here and nowhere else; `tests/test_keras_internals.py` tells if one breaks.

What is taken are layers, not Keras itself: who imports this need not wait for it.
"""

import contextlib
from collections.abc import Iterator
from typing import Any


def sublayers(layer: Any, recursive: bool = True, include_self: bool = False) -> list[Any]:
    """The layers inside a Keras layer, in the order of their making, each before those inside it.

    Args:
        recursive: whether to look into those too.
        include_self: whether the layer itself comes first.
    """
    return list(layer._flatten_layers(recursive=recursive, include_self=include_self))


def own_weights(layer: Any) -> list[Any]:
    """The weights that a layer itself trains, without those of the layers inside it."""
    return list(layer._trainable_variables)


def seed_generators(layer: Any) -> list[Any]:
    """The `keras.random.SeedGenerator`s that a layer itself holds."""
    return list(layer._seed_generators)


@contextlib.contextmanager
def called_in(training: bool | None) -> Iterator[None]:
    """The layers called inside are told `training`, as though by a layer that was called with it."""
    from keras.src.backend.common import global_state
    from keras.src.layers.layer import CallContext

    before = global_state.get_global_attribute("current_call_ctx")
    # The layer that has entered a context leaves it; no layer has entered this one.
    context = CallContext(entry_layer=None)
    context.training = training
    global_state.set_global_attribute("current_call_ctx", context)
    try:
        yield
    finally:
        global_state.set_global_attribute("current_call_ctx", before)


def maker(tensor: Any) -> Any:
    """The operation, mostly a layer, that made a symbolic tensor of a functional model."""
    return tensor._keras_history.operation
