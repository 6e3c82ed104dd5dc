"""The two kinds of error a user meets, and the checks that raise them."""

import math
import re
from collections.abc import Iterable
from typing import Any

# A bad value may be a file's whole content: what is said of it stays a few lines.
LONGEST = 800
# TensorFlow counts in 32 bits, and what is computed with is float32: beyond these it is infinite, or loses precision.
MOST_INTEGER = 2**31 - 1
LARGEST_FLOAT, SMALLEST_FLOAT = (2 - 2**-23) * 2.0**127, 2.0**-126


def cut(message: str) -> str:
    """Returns a message with the middle of a very long one left out."""
    if len(message) <= LONGEST:
        return message
    return f"{message[: LONGEST // 2]} […] {message[-LONGEST // 2 :]}"


class UsageError(ValueError):
    """The caller's mistake: an unknown name, a value out of range. Programs exit with status 2."""

    def __init__(self, message: str) -> None:
        super().__init__(cut(str(message)))


class WrongType(UsageError, TypeError):
    """A value of a type that has no meaning here, where the ecosystem's own functions raise a `TypeError`."""


class RunError(RuntimeError):
    """A run that cannot go on: a missing or corrupt file, a failed solve. Programs exit with status 1."""

    def __init__(self, message: str) -> None:
        super().__init__(cut(str(message)))


def failed_assertion(message: str) -> str:
    """Returns the words of a TensorFlow assertion without the node names around them, in one line."""
    lines = message.split("\n")
    text = next((line for line in lines if "assertion failed" in line), lines[0])
    text = text[text.find("assertion failed") :] if "assertion failed" in text else text
    text = re.sub(r"\{\{.*?\}\}", "", text)
    text = " ".join(re.sub(r"assertion failed: |\[Op:.*?\]|[\[\]]", "", text).split())
    # A solve's assertion counts every reason, those of no sample too.
    return re.sub(r"(?<=: |; )0 [^;]*; ?", "", text).rstrip(" ;")


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
    """Returns `value` if it is a finite number between `low` and `high`; raises `UsageError` otherwise.

    `low_open` and `high_open` exclude the bound itself.
    """
    _check_number(name, value)
    above = low is None or value > low or (value == low and not low_open)
    below = high is None or value < high or (value == high and not high_open)
    if not (above and below and math.isfinite(value)):
        bounds = []
        if low is not None:
            bounds.append(f"{'greater than' if low_open else 'at least'} {low:g}")
        if high is not None:
            bounds.append(f"{'less than' if high_open else 'at most'} {high:g}")
        raise UsageError(f"{name} is {value!r}, but must be {' and '.join(bounds) or 'a finite number'}")
    return value


def check_integer(name: str, value: int, *, low: int | None = None, high: int | None = None) -> int:
    """Returns `value` as an int if it is a whole number between `low` and `high`; raises `UsageError` otherwise."""
    check_range(name, value, low=low, high=high)
    if int(value) != value:
        raise UsageError(f"{name} is {value!r}, but must be a whole number")
    return int(value)


def _check_number(name: str, value: Any) -> None:
    try:
        # A variable would be read once, and never have a gradient.
        if isinstance(value, (bool, str, bytes)) or hasattr(value, "assign"):
            raise TypeError
        float(value)
    except (TypeError, ValueError):
        raise UsageError(f"{name} is {value!r}, but must be a number") from None
    except OverflowError:
        # Python refuses to write out the largest ones.
        raise UsageError(f"{name} is a number of {value.bit_length()} bits, but must be one that fits") from None
