"""The two kinds of error a user meets, and the checks that raise them."""

from collections.abc import Iterable
from typing import Any


class UsageError(ValueError):
    """The caller's mistake: an unknown name, a value out of range. Programs exit with status 2."""


class RunError(RuntimeError):
    """A run that cannot go on: a missing or corrupt file, a failed solve. Programs exit with status 1."""


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> Any:
    """Returns `value` if it is one of `choices`; raises `UsageError` naming both otherwise."""
    choices = list(choices)
    if value not in choices:
        raise UsageError(f"{name} is {value!r}, but must be one of: {', '.join(map(str, choices))}")
    return value


def check_range(
    name: str,
    value: float,
    *,
    low: float | None = None,
    high: float | None = None,
    low_open: bool = False,
    high_open: bool = False,
) -> float:
    """Returns `value` if it lies between `low` and `high`; raises `UsageError` otherwise, NaN included.

    `low_open` and `high_open` exclude the bound itself.
    """
    above = low is None or value > low or (value == low and not low_open)
    below = high is None or value < high or (value == high and not high_open)
    if not (above and below and value == value):
        bounds = []
        if low is not None:
            bounds.append(f"{'greater than' if low_open else 'at least'} {low:g}")
        if high is not None:
            bounds.append(f"{'less than' if high_open else 'at most'} {high:g}")
        raise UsageError(f"{name} is {value!r}, but must be {' and '.join(bounds) or 'a number'}")
    return value
