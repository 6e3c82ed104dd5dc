"""A finished piece of a diagnosis, a dataclass, as a file holds it: plain values for JSON, and arrays beside them."""

import dataclasses
import types
import typing
from typing import Any

import numpy as np

# Stands in JSON where an array is: its name among the arrays.
_ARRAY = "array"


def form(kind: Any) -> Any:
    """The fields of a kind of piece with their types, as JSON: what a file of another form is told from."""
    if dataclasses.is_dataclass(kind):
        return {name: form(hint) for name, hint in typing.get_type_hints(kind).items()}
    inside = [form(each) for each in typing.get_args(kind)]
    return inside or getattr(kind, "__name__", str(kind))


def packed(piece: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What JSON holds of a dataclass, and its arrays by name."""
    arrays: dict[str, np.ndarray] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            name = str(len(arrays))
            arrays[name] = value
            return {_ARRAY: name}
        if dataclasses.is_dataclass(value):
            return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        if isinstance(value, dict):
            return {key: plain(each) for key, each in value.items()}
        return [plain(each) for each in value] if isinstance(value, list | tuple) else value

    return plain(piece), arrays


def unpacked(kind: Any, values: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
    """The dataclass `kind` of what `packed` made of it."""

    def typed(kind: Any, value: Any) -> Any:
        if isinstance(value, dict) and set(value) == {_ARRAY}:
            return arrays[value[_ARRAY]]
        if dataclasses.is_dataclass(kind):
            hints = typing.get_type_hints(kind)
            return kind(**{name: typed(hints[name], each) for name, each in value.items()})
        inside = typing.get_args(kind)
        if isinstance(kind, types.UnionType) and value is not None:
            return typed(next(each for each in inside if each is not types.NoneType), value)
        if typing.get_origin(kind) is dict:
            return {key: typed(inside[1], each) for key, each in value.items()}
        if typing.get_origin(kind) in (list, tuple):
            return typing.get_origin(kind)(typed(inside[0], each) for each in value)
        return value

    return typed(kind, values)
