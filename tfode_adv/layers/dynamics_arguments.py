"""What a dynamics is called with at a time, a state and, where the block was given one, a condition."""

import inspect
from collections.abc import Callable
from typing import Any

import keras

from tfode_adv.errors import UsageError

NAME = "condition"


class Arguments:
    """How a dynamics wants to be called: by `(t, h)`, by `h` alone, by a condition as well, or by all in one list.

    A dynamics takes a condition if it has an argument called so, or needs three.

    Args:
        dynamics: a Keras layer or callable.
    """

    def __init__(self, dynamics: Callable):
        self._listed = isinstance(dynamics, keras.Model) and len(getattr(dynamics, "inputs", None) or ()) > 1
        if self._listed:
            self._takes_time, self._named, self._needed = True, False, len(dynamics.inputs)
        else:
            self._look_at(dynamics.call if isinstance(dynamics, keras.layers.Layer) else dynamics)

    def _look_at(self, function: Callable) -> None:
        try:
            parameters = inspect.signature(function).parameters
        except (TypeError, ValueError):
            self._takes_time, self._named, self._needed = True, False, 2
            return
        each = [p for p in parameters.values() if p.name != NAME]
        needed = sum(p.kind <= p.POSITIONAL_OR_KEYWORD and p.default is p.empty for p in each)
        self._takes_time = needed != 1 or any(p.kind == p.VAR_POSITIONAL for p in each)
        self._named = NAME in parameters
        optional = not self._named or parameters[NAME].default is not inspect.Parameter.empty
        self._needed = needed + (not optional)

    def __call__(self, call: Callable, t: Any, h: Any, condition: Any = None) -> Any:
        """`call`, the dynamics, at (t, h).

        Raises:
            UsageError: for a condition that the dynamics does not take, or none where it needs one.
        """
        state = (t, h) if self._takes_time else (h,)
        if condition is None:
            if self._needed > len(state):
                raise UsageError("the dynamics needs a condition: call the block as block(h0, condition=...)")
            return call(list(state)) if self._listed else call(*state)
        if self._named:
            return call(*state, condition=condition)
        if self._needed != 3:
            raise UsageError(
                f"the dynamics takes no condition: it must be f(t, h, {NAME}) or have an argument {NAME!r}"
            )
        return call([*state, condition]) if self._listed else call(*state, condition)
