"""What goes into an attack and what comes out of the model, checked once for all attacks."""

import dataclasses
import numbers
import typing
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfode_adv.errors import LARGEST_FLOAT, MOST_INTEGER, RunError, UsageError, check_range

Lengths = float | tuple[float, ...]
"""One length, or one for each image; given as any sequence or array."""
LARGEST = {int: MOST_INTEGER, float: LARGEST_FLOAT}
"""Of the types that hyperparameters become."""
LONGEST = 1e15
"""Of lengths, which are squared on the way."""


class AttackWarning(UserWarning):
    """The result may not mean what it seems to, such as of a model that defeats an attack, but not by being robust."""


def number(
    default: Any = dataclasses.MISSING,
    *,
    length: bool = False,
    structural: bool = False,
    init: bool = True,
    **bounds: float | bool,
) -> Any:
    """Declares a hyperparameter: a dataclass field whose value must lie within `bounds` (of check_range).

    Its annotation says the rest: whether it is an integer, whether it may be None, whether each image may have its own.

    `length`: measured in the attack's norm. `structural`: shapes the program, so that another value
    means another trace; all others reach the compiled steps as tensors. `init` false: not the caller's to set.
    """
    rule = {"bounds": bounds, "length": length, "open": not structural}
    return dataclasses.field(default=default, init=init, metadata=rule)


def kind(field: dataclasses.Field) -> type:
    """Returns the type, int or float, that the numbers of `field` have by its annotation."""
    return int if int in _choices(field) else float


def _choices(field):
    return typing.get_args(field.type) or (field.type,)


def open_fields(attack: Any) -> list[dataclasses.Field]:
    """Returns the numeric fields of `attack` that have a value and may change without a new trace."""
    return [
        field
        for field in dataclasses.fields(attack)
        if field.metadata.get("open") and getattr(attack, field.name) is not None
    ]


def hyperparameters(attack: Any) -> None:
    """Raises `UsageError` for the first field of the dataclass `attack` that breaks its declaration.

    A sequence of lengths becomes a tuple.
    """
    for field in dataclasses.fields(attack):
        value = getattr(attack, field.name)
        if isinstance(field.default, bool) and not isinstance(value, (bool, np.bool_)):
            raise UsageError(f"{field.name} is {value!r}, but must be True or False")
        if "bounds" not in field.metadata or (value is None and type(None) in _choices(field)):
            continue
        several = any(typing.get_origin(choice) is tuple for choice in _choices(field))
        if several and not isinstance(value, (str, bytes)) and np.ndim(value) == 1:
            value = tuple(np.asarray(value).tolist())
            object.__setattr__(attack, field.name, value)
        for one in value if isinstance(value, tuple) and several else (value,):
            _check(field, one)


def _check(field, value):
    """Raises unless `value` has the type of `field`, and lies within its bounds as it is and as a tensor."""
    wanted = kind(field)
    if not isinstance(value, numbers.Integral if wanted is int else numbers.Real) or isinstance(value, bool):
        noun = "an integer" if wanted is int else "a finite number"
        raise UsageError(f"{field.name} is {value!r}, but must be {noun}")
    bounds = {"high": LONGEST if field.metadata["length"] else LARGEST[wanted], **field.metadata["bounds"]}
    check_range(field.name, value, **bounds)
    if wanted is float and bounds.get("low_open") and np.float32(value) <= bounds["low"]:
        raise UsageError(f"{field.name} is {value!r}, which is {np.float32(value):g} in float32, but must be greater")


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
    """Returns `y`, [count], [count, 1] or one-hot, as int32 [count].

    Raises `UsageError` for another shape, non-integers or what int32 cannot hold.
    """
    y = np.asarray(y)
    if y.shape == (count, 1):
        y = y[:, 0]
    elif y.ndim == 2 and len(y) == count and np.isin(y, (0, 1)).all() and (y.sum(-1) == 1).all():
        y = y.argmax(-1)
    if y.shape != (count,):
        raise UsageError(f"labels have shape {y.shape}, but the images call for ({count},), or as many one-hot rows")
    if y.size and not np.issubdtype(y.dtype, np.integer):
        raise UsageError(f"labels have dtype {y.dtype}, but must be integers")
    if y.size and (y.min() < 0 or y.max() > MOST_INTEGER):
        raise UsageError(f"a label is {y.min() if y.min() < 0 else y.max()}, but must be the number of a class")
    return y.astype(np.int32)


def logits(values: np.ndarray, y: np.ndarray, ask: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> None:
    """Raises if `values` [N, K], the model's answers to clean images `x`, cannot be logits for labels `y`.

    Where they could be probabilities, `ask` is used to see what else the model can answer; that is in no count.
    """
    if values.ndim == 2 and values.shape[-1] == 1:
        raise UsageError(
            f"the model returned shape {values.shape}, but must return a logit for each class: "
            "of a single sigmoid tfode_adv.models.Logits makes two"
        )
    if values.ndim != 2 or values.shape[-1] < 2 or len(values) != len(y):
        raise UsageError(f"the model returned shape {values.shape}, but must return logits ({len(y)}, classes)")
    if not np.isfinite(values).all():
        raise RunError(f"the model's logits for image {_first(~np.isfinite(values))} are not finite")
    if y.max() >= values.shape[-1]:
        raise UsageError(f"a label is {y.max()}, but must lie in 0 .. {values.shape[-1] - 1}")
    if _only_probabilities(values, ask, x):
        raise UsageError(
            "the model returned probabilities, but must return logits: leave out its softmax or sigmoid, "
            "or wrap it in tfode_adv.models.Logits"
        )


_SUM = 0.02
"""How far from 1 the sum of probabilities may lie, in bfloat16."""


def _only_probabilities(values, ask, x):
    """Returns whether the model's answers can be nothing but probabilities.

    Logits may happen to lie in [0, 1], of a constant model all of them; but not on images of any kind and size.
    """

    def answers(images):
        try:
            found = ask(images.astype(np.float32))
        except (tf.errors.InvalidArgumentError, RunError):
            return values[:0]
        return found[np.isfinite(found).all(-1)]

    if values.min() < 0 or values.max() > 1:
        return False
    noise = np.random.RandomState(0).uniform(size=(4, *x.shape[1:]))
    values = np.concatenate([values, answers(np.concatenate([noise, noise[:1] * 0, noise[:1] * 0 + 1]))])
    if values.min() < 0 or values.max() > 1 or np.ptp(values, axis=0).max() == 0:
        return False
    # A decision is all zeros and a one, of noise as well, which no softmax gives.
    if np.isin(values, (0, 1)).all():
        return False
    if (np.abs(values.sum(-1) - 1) <= _SUM).all():
        return True
    far = answers(1e6 * np.concatenate([noise, -noise, noise - 0.5]))
    # A sigmoid of one of two opposite extremes is above one half; logits that are tiny there are tiny logits.
    return bool(len(far)) and far.min() >= 0 and 0.5 <= far.max() <= 1


def fit(fooled: np.ndarray, targeted: bool) -> None:
    """Warns if most images [N] are wrong as they are: success then says little of the attack."""
    if not targeted and len(fooled) >= _ENOUGH and 2 * fooled.sum() > len(fooled):
        message = (
            f"{fooled.sum()} of {len(fooled)} images are wrong before the attack and count as success: does the model "
            "expect other values than [0, 1] (see models.Rescaled), or other labels?"
        )
        warnings.warn(message, AttackWarning, stacklevel=4)


_ENOUGH = 8


def _first(bad: np.ndarray) -> int:
    return int(np.argmax(bad.reshape(len(bad), -1).any(-1)))
