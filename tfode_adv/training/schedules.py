"""Learning rates by epoch. A schedule is told each epoch's validation error and remembers what it needs."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from tfode_adv.errors import UsageError, check_choice, check_integer, check_range


@dataclasses.dataclass
class Constant:
    """The same rate in every epoch."""

    learning_rate: float

    def rate(self, epoch: int) -> float:
        """The rate of epoch `epoch`, counted from 0."""
        return self.learning_rate

    def observe(self, error: float) -> None:
        """Takes note of the validation error, in [0, 1], of the epoch just ended."""

    def state(self) -> dict[str, Any]:
        """What changes from epoch to epoch, as JSON; `restore` takes it back."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to `state`."""
        for name, value in state.items():
            setattr(self, name, value)


@dataclasses.dataclass
class Steps(Constant):
    """The rate is multiplied by `factor` at the start of each epoch of `milestones`, counted from 0."""

    milestones: Sequence[int]
    factor: float = 0.1

    def rate(self, epoch: int) -> float:
        return self.learning_rate * self.factor ** sum(epoch >= at for at in self.milestones)


@dataclasses.dataclass
class Cosine(Constant):
    """Half a cosine, from the full rate in epoch 0 to 0 after the last of `epochs` (SGDR, no restarts)."""

    epochs: int

    def rate(self, epoch: int) -> float:
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(epoch / self.epochs, 1.0)))


@dataclasses.dataclass
class Plateau(Constant):
    """The rate is multiplied by `factor` once more than `patience` epochs in a row brought no new best error.

    This is how PyTorch's `ReduceLROnPlateau`, which WIFS 2019 trained with, counts.
    """

    patience: int = 5
    factor: float = 0.1
    best: float = math.inf
    waited: int = 0
    cuts: int = 0

    def rate(self, epoch: int) -> float:
        return self.learning_rate * self.factor**self.cuts

    def observe(self, error: float) -> None:
        if error < self.best:
            self.best, self.waited = error, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.cuts, self.waited = self.cuts + 1, 0

    def state(self) -> dict[str, Any]:
        # JSON has no infinity.
        best = None if math.isinf(self.best) else self.best
        return {"best": best, "waited": self.waited, "cuts": self.cuts}

    def restore(self, state: dict[str, Any]) -> None:
        best = math.inf if state["best"] is None else state["best"]
        super().restore({**state, "best": best})


SCHEDULES = ("constant", "plateau", "steps", "cosine")


def get(
    name: str,
    learning_rate: float,
    epochs: int,
    *,
    patience: int = 5,
    milestones: Sequence[int] = (),
    factor: float = 0.1,
) -> Constant:
    """The schedule called `name`: one of "constant", "plateau", "steps", "cosine".

    Raises:
        UsageError: for an unknown name or a value out of range.
    """
    check_choice("schedule", name, SCHEDULES)
    check_range("learning_rate", learning_rate, low=0, low_open=True, high=1e6)
    check_integer("epochs", epochs, low=1)
    check_range("factor", factor, low=0, low_open=True, high=1)
    if name == "plateau":
        return Plateau(learning_rate, check_range("patience", patience, low=1), factor)
    if name == "steps":
        if not milestones or any(at < 1 for at in milestones):
            raise UsageError(f"milestones is {list(milestones)}, but must be epochs, each at least 1")
        return Steps(learning_rate, tuple(milestones), factor)
    if name == "cosine":
        return Cosine(learning_rate, epochs)
    return Constant(learning_rate)
