"""A layer computing in another type of numbers for a while, with the weights it has."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from tfode_adv.errors import UsageError
from tfode_adv.keras_internals import sublayers

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
"""By the type's name, the Keras policy that computes in it and keeps weights in float32."""


@contextlib.contextmanager
def computing_in(layer: Any, name: str | None) -> Iterator[None]:
    """Inside, `layer` and all layers in it compute in the type `name`, a key of `POLICIES`; None: as they are.

    Raises:
        UsageError: for a `layer` that is none, whose own computation nobody can change, or weights not of float32.
    """
    if name is None:
        yield
        return
    if not isinstance(layer, keras.layers.Layer):
        raise UsageError(f"precision is {name!r}, but the dynamics is no Keras layer: what it computes in is its own")
    found = sublayers(layer, include_self=True)
    before = [each.dtype_policy for each in found]
    kinds = {policy.variable_dtype for policy in before} - {"float32"}
    if kinds:
        raise UsageError(f"precision is {name!r}, but weights of the dynamics are {', '.join(sorted(kinds))}")
    try:
        for each in found:
            each.dtype_policy = POLICIES[name]
        yield
    finally:
        for each, policy in zip(found, before, strict=True):
            each.dtype_policy = policy
