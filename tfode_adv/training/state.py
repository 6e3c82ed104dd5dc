"""Where a training stands: all that decides how it goes on, as arrays and a JSON note."""

import dataclasses
import math
from collections import Counter
from typing import Any

import keras
import numpy as np

from tfode_adv.errors import RunError
from tfode_adv.training.updates import Outcome


@dataclasses.dataclass
class State:
    """Where a training stands.

    Attributes:
        epoch: the epoch under way, from 0.
        step: batches of it done, those skipped included.
        updates: batches done since the start, those skipped included; with the seed, it names every draw.
        rate: the learning rate that the schedule set last.
        skipped: batches dropped since the start.
        seconds: spent in this epoch.
        sums: the outcome of this epoch's batches so far.
        best_error, best_epoch: the lowest validation error in [0, 1], and its epoch.
        history: the logs of each finished epoch; last, of the part of one where `max_updates` ended the training.
        finished: whether the training came to its end.
    """

    epoch: int = 0
    step: int = 0
    updates: int = 0
    rate: float | None = None
    skipped: int = 0
    seconds: float = 0.0
    sums: Outcome = dataclasses.field(default_factory=Outcome)
    best_error: float = math.inf
    best_epoch: int | None = None
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    finished: bool = False


def capture(state: State, model: keras.Model, optimizer: Any, schedule: Any) -> tuple[dict, dict]:
    """The arrays and the note of a checkpoint."""
    note = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    sums = vars(note.pop("sums")).copy()
    nfe = sums.pop("nfe")
    note["best_error"] = None if math.isinf(state.best_error) else state.best_error
    note |= {"sums": {**sums, "failed": dict(sums["failed"])}, "schedule": schedule.state()}
    arrays = {**_arrays("model", model.variables), **_arrays("optimizer", optimizer.variables)}
    if nfe is not None:
        arrays["epoch/nfe"] = nfe
    return arrays, note


def restore(arrays: dict, note: dict, model: keras.Model, optimizer: Any, schedule: Any) -> State:
    """Goes back to a checkpoint, whose arrays are checked before any is taken.

    Raises:
        RunError: if it is of another model or optimiser.
    """
    _check(arrays, "model", model.variables)
    _check(arrays, "optimizer", optimizer.variables)
    assign(arrays, model)
    _assign(arrays, "optimizer", optimizer.variables)
    note = dict(note)
    schedule.restore(note.pop("schedule"))
    sums = note.pop("sums")
    sums = Outcome(**{**sums, "failed": Counter(sums["failed"])}, nfe=arrays.get("epoch/nfe"))
    best = note.pop("best_error")
    return State(**note, sums=sums, best_error=math.inf if best is None else best)


def weights(model: keras.Model) -> dict[str, np.ndarray]:
    """The model's variables as named arrays; `assign` takes them back."""
    return _arrays("model", model.variables)


def assign(arrays: dict[str, np.ndarray], model: keras.Model) -> None:
    """Gives the model the variables that `weights` took."""
    _check(arrays, "model", model.variables)
    _assign(arrays, "model", model.variables)


def _arrays(prefix: str, variables: list) -> dict[str, np.ndarray]:
    return {f"{prefix}/{index:04d}": variable.numpy() for index, variable in enumerate(variables)}


def _assign(arrays: dict[str, np.ndarray], prefix: str, variables: list) -> None:
    for index, variable in enumerate(variables):
        variable.assign(arrays[f"{prefix}/{index:04d}"])


def _check(arrays: dict[str, np.ndarray], prefix: str, variables: list) -> None:
    stored = [arrays[key].shape for key in sorted(arrays) if key.startswith(f"{prefix}/")]
    if stored != [tuple(variable.shape) for variable in variables]:
        raise RunError(f"the checkpoint is of another {prefix}: its arrays have other shapes")
