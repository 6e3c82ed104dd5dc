"""What goes into an attack and what comes out of the model, checked once for all attacks."""

import dataclasses
import numbers
from typing import Any

import numpy as np

from tfode_adv.errors import RunError, UsageError, check_range


def number(
    default: Any = dataclasses.MISSING,
    *,
    optional: bool = False,
    integer: bool = False,
    length: bool = False,
    structural: bool = False,
    init: bool = True,
    **bounds: float | bool,
) -> Any:
    """Declares a hyperparameter: a dataclass field whose value must lie within `bounds` (of check_range).

    `length`: measured in the attack's norm. `structural`: shapes the program, so that another value
    means another trace; all others reach the compiled steps as tensors. `init` false: not the caller's to set.
    """
    rule = {
        "bounds": bounds,
        "optional": optional,
        "integer": integer,
        "length": length,
        "open": not structural,
    }
    return dataclasses.field(default=default, init=init, metadata=rule)


def open_fields(attack: Any) -> list[dataclasses.Field]:
    """Returns the numeric fields of `attack` that have a value and may change without a new trace."""
    return [
        field
        for field in dataclasses.fields(attack)
        if field.metadata.get("open") and getattr(attack, field.name) is not None
    ]


def hyperparameters(attack: Any) -> None:
    """Raises `UsageError` for the first field of the dataclass `attack` that breaks its declaration."""
    for field in dataclasses.fields(attack):
        value = getattr(attack, field.name)
        if isinstance(field.default, bool) and not isinstance(value, (bool, np.bool_)):
            raise UsageError(f"{field.name} is {value!r}, but must be True or False")
        if "bounds" not in field.metadata or (value is None and field.metadata["optional"]):
            continue
        kind = numbers.Integral if field.metadata["integer"] else numbers.Real
        if not isinstance(value, kind) or isinstance(value, bool) or not np.isfinite(float(value)):
            noun = "an integer" if kind is numbers.Integral else "a finite number"
            raise UsageError(f"{field.name} is {value!r}, but must be {noun}")
        check_range(field.name, value, **field.metadata["bounds"])


def images(x: Any) -> np.ndarray:
    """Returns `x` as float32 [N, ...]; raises `UsageError` unless all of it is finite and in [0, 1]."""
    x = np.asarray(x)
    if x.ndim < 2:
        raise UsageError(f"images have shape {x.shape}, but must have one axis of samples and more")
    if x.dtype == object or not np.issubdtype(x.dtype, np.number) or np.iscomplexobj(x):
        raise UsageError(f"images have dtype {x.dtype}, but must be floats in [0, 1]")
    x = x.astype(np.float32)
    if not np.isfinite(x).all():
        raise UsageError(f"image {_first(~np.isfinite(x))} holds a value that is not finite")
    if x.size and (x.min() < 0 or x.max() > 1):
        raise UsageError(f"images range over [{x.min():g}, {x.max():g}], but must stay in [0, 1]")
    return x


def labels(y: Any, count: int) -> np.ndarray:
    """Returns `y` as int32 [count]; raises `UsageError` for another shape, non-integers or what int32 cannot hold."""
    y = np.asarray(y)
    if y.shape != (count,):
        raise UsageError(f"labels have shape {y.shape}, but the images call for ({count},)")
    if y.size and not np.issubdtype(y.dtype, np.integer):
        raise UsageError(f"labels have dtype {y.dtype}, but must be integers")
    if y.size and (y.min() < 0 or y.max() > np.iinfo(np.int32).max):
        raise UsageError(f"a label is {y.min() if y.min() < 0 else y.max()}, but must be the number of a class")
    return y.astype(np.int32)


def logits(values: np.ndarray, y: np.ndarray) -> None:
    """Raises if `values` [N, K], the model's answers to clean images, cannot be logits for labels `y`."""
    if values.ndim != 2 or values.shape[-1] < 2 or len(values) != len(y):
        raise UsageError(f"the model returned shape {values.shape}, but must return logits ({len(y)}, classes)")
    if not np.isfinite(values).all():
        raise RunError(f"the model's logits for image {_first(~np.isfinite(values))} are not finite")
    if values.min() >= 0 and np.allclose(values.sum(-1), 1.0, atol=1e-3):
        raise UsageError("the model returned probabilities, but must return logits: leave out its softmax")
    if y.max() >= values.shape[-1]:
        raise UsageError(f"a label is {y.max()}, but must lie in 0 .. {values.shape[-1] - 1}")


def _first(bad: np.ndarray) -> int:
    return int(np.argmax(bad.reshape(len(bad), -1).any(-1)))
