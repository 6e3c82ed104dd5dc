"""Keras's private interfaces: each is used here and nowhere else; `tests/test_keras_internals.py` tells if one breaks.

What is taken are layers, not Keras itself: who imports this need not wait for it.
"""

from typing import Any


def sublayers(layer: Any, recursive: bool = True, include_self: bool = False) -> list[Any]:
    """The layers inside a Keras layer, in the order of their making, each before those inside it.

    Args:
        recursive: whether to look into those too.
        include_self: whether the layer itself comes first.
    """
    return list(layer._flatten_layers(recursive=recursive, include_self=include_self))


def draws_random_numbers(layer: Any) -> bool:
    """Whether a layer itself holds a `keras.random.SeedGenerator`."""
    return bool(layer._seed_generators)


def maker(tensor: Any) -> Any:
    """The operation, mostly a layer, that made a symbolic tensor of a functional model."""
    return tensor._keras_history.operation
