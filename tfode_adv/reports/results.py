"""What run folders hold, ready for tables and figures: cells merged over folders, with their names."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tfode_adv import files
from tfode_adv.reports import records, statistics
from tfode_adv.reports.records import Configuration, Record
from tfode_adv.reports.tables import number
from tfode_adv.runs import Run


@dataclasses.dataclass(frozen=True)
class Result:
    """One configuration of one model, all of its shards together.

    Attributes:
        model: the run's name, as shown.
        configuration: what was done.
        records: by the image's index.
        images: a handful, by index: clean and adversarial, [H, W, C] in [0, 1].
    """

    model: str
    configuration: Configuration
    records: Mapping[int, Record]
    images: Mapping[int, tuple[np.ndarray, np.ndarray]]

    @property
    def summary(self) -> statistics.Summary:
        """Rates over the records."""
        return statistics.summarize(self.records.values())

    @property
    def attack(self) -> str:
        """The attack's name with its steps."""
        steps = self.configuration.hyperparameters.get("steps")
        name = self.configuration.attack
        return name if steps is None else f"{name}-{steps}"

    @property
    def gradient(self) -> str | None:
        """Where gradients came from, in a few words; None where none were taken."""
        cell = self.configuration
        averaged = [f"EOT {cell.eot}"] if cell.eot else []
        if cell.gradient is None:
            return " ".join(averaged) or None
        through = [cell.gradient_solver] if cell.gradient_solver else []
        through += [f"{cell.gradient_num_steps} steps"] if cell.gradient_num_steps else []
        through += [f"τ {number(cell.gradient_tol)}"] if cell.gradient_tol is not None else []
        return " ".join([cell.gradient, *([f"({', '.join(through)})"] if through else []), *averaged])


@dataclasses.dataclass(frozen=True)
class Collection:
    """The results of several run folders.

    Attributes:
        runs: the folders that were read, by the names shown for them.
        results: in a fixed order.
        notes: what a reader should know of what was left out.
    """

    runs: Mapping[str, Run]
    results: Sequence[Result]
    notes: Sequence[str]


def collect(paths: Iterable[files.PathLike], num_examples: int | None = None) -> Collection:
    """Reads run folders and merges the cells they share, as shards on several machines leave them.

    Args:
        paths: run folders.
        num_examples: only the first so many images of each split; all by default.

    Raises:
        RunError: if a folder is no run, or a file in it is corrupt; the message names the file.
    """
    paths = list(dict.fromkeys(pathlib.Path(path) for path in paths))
    runs = {name: Run.open(path) for name, path in _named(paths).items()}
    merged: dict[str, Result] = {}
    notes = []
    for name, run in runs.items():
        model = files.sha256(run.model_path) if run.finished else None
        stale = 0
        for cell in records.cells(run.path):
            if model is not None and cell.configuration.model != model:
                stale += 1
                continue
            found = {
                index: record
                for index, record in cell.records().items()
                if num_examples is None or index < num_examples
            }
            known = merged.get(cell.configuration.digest)
            if known is not None:
                found = dict(sorted({**found, **known.records}.items()))
                images = dict(sorted({**cell.images(), **known.images}.items()))
                merged[cell.configuration.digest] = dataclasses.replace(known, records=found, images=images)
            elif found:
                merged[cell.configuration.digest] = Result(name, cell.configuration, found, cell.images())
        if stale:
            notes.append(f"{name}: {stale} configurations of a model since replaced were left out.")
    results = sorted(merged.values(), key=_order(list(runs)))
    return Collection(runs, results, [*notes, *_uneven(results)])


def grouped(results: Iterable[Result], *keys: Callable[[Result], Any]) -> list[tuple[tuple, list[Result]]]:
    """Results by the values of `keys`; groups and members in the order in which they come."""
    groups: dict[tuple, list[Result]] = {}
    for result in results:
        groups.setdefault(tuple(key(result) for key in keys), []).append(result)
    return list(groups.items())


def as_dict(result: Result) -> dict[str, Any]:
    """A result as plain JSON values."""
    return {
        "model": result.model,
        "digest": result.configuration.digest,
        "configuration": result.configuration.as_dict(),
        "images": len(result.records),
        **result.summary.as_dict(),
    }


def _named(paths: Sequence[pathlib.Path]) -> dict[str, pathlib.Path]:
    """Folders by their last part, or by all of the path where two share it."""
    last = [path.resolve().name for path in paths]
    return {name if last.count(name) == 1 else str(path): path for name, path in zip(last, paths, strict=True)}


def _order(names: Sequence[str]):
    def key(result: Result) -> tuple:
        cell = result.configuration
        return (
            names.index(result.model),
            cell.attack != "none",
            cell.norm or "",
            cell.eps or 0.0,
            result.attack,
            result.gradient or "",
            cell.solver or "",
            cell.tol or 0.0,
            cell.digest,
        )

    return key


def _uneven(results: Sequence[Result]) -> list[str]:
    """A note where configurations of a model rest on different numbers of images."""
    notes = []
    for model in dict.fromkeys(result.model for result in results):
        counts = sorted({len(result.records) for result in results if result.model == model})
        if len(counts) > 1:
            notes.append(f"{model}: configurations rest on {counts[0]} to {counts[-1]} images; compare with care.")
    return notes
