"""What run folders hold, ready for tables and figures: cells merged over folders, with their names."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tfode_adv import files
from tfode_adv.errors import RunError
from tfode_adv.evaluation import records
from tfode_adv.evaluation.configuration import Configuration
from tfode_adv.evaluation.kept_images import Kept
from tfode_adv.evaluation.records import Cell, Record
from tfode_adv.evaluation.summary import Summary, summarize
from tfode_adv.rendering.tables import number
from tfode_adv.run_folder import DIGEST, Run


@dataclasses.dataclass(frozen=True)
class Result:
    """One configuration of one model, all of its shards together.

    Attributes:
        model: the run's name, as shown.
        configuration: what was done.
        records: by the image's index.
        images: those kept, by index: clean and adversarial, [H, W, C] in [0, 1].
    """

    model: str
    configuration: Configuration
    records: Mapping[int, Record]
    images: Kept

    def first(self, num_examples: int | None) -> "Result":
        """The same of the first so many images of the split alone; of all for None."""
        if num_examples is None:
            return self
        kept = {index: record for index, record in self.records.items() if index < num_examples}
        return dataclasses.replace(self, records=kept)

    @property
    def summary(self) -> Summary:
        """Rates over the records."""
        return summarize(self.records.values())

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
        through += cell.others("gradient_")
        return " ".join([cell.gradient, *([f"({', '.join(through)})"] if through else []), *averaged])


@dataclasses.dataclass(frozen=True)
class Collection:
    """The results of several run folders.

    Attributes:
        runs: the folders that were read, by the names shown for them.
        results: in a fixed order.
        left_out: what a reader should know of what was not read.
    """

    runs: Mapping[str, Run]
    results: Sequence[Result]
    left_out: Sequence[str] = ()

    @property
    def notes(self) -> list[str]:
        """What was left out, and what is to be compared with care."""
        return [*self.left_out, *_uneven(self.results)]


def collect(paths: Iterable[files.PathLike], num_examples: int | None = None) -> Collection:
    """Reads run folders and merges the cells they share, as shards on several machines leave them.

    Args:
        paths: run folders.
        num_examples: only the first so many images of each split; all by default.

    Raises:
        RunError: if a folder is no run, or two folders hold records of one image that are of different images; the
            message names the file or the folders. A damaged cell is left out, and named in the notes.
    """
    paths = list(dict.fromkeys(pathlib.Path(path) for path in paths))
    runs = {name: Run.open(path) for name, path in _named(paths).items()}
    merged: dict[str, Result] = {}
    notes = []
    for name, run in runs.items():
        model = files.sha256(run.model_path) if run.finished else None
        if run.swapped:
            notes.append(f"{name}: model.keras is not the one that this run made, whose records are shown.")
            model = run.config[DIGEST]
        stale = 0
        for folder in records.folders(run.path):
            try:
                cell = Cell.open(folder)
                found = Result(name, cell.configuration, cell.records(), cell.images()).first(num_examples)
            except RunError as error:
                notes.append(f"{name}: a configuration was left out, as {error}.")
                continue
            if model is not None and cell.configuration.model != model:
                stale += 1
                continue
            known = merged.get(cell.configuration.digest)
            different = known and _different(known, found)
            if different:
                notes.append(
                    f"{name}: {str(folder)!r} was left out, as it holds other records than {known.model!r} of "
                    f"{len(different)} images, the first {different[0]}."
                )
            elif known is not None:
                merged[cell.configuration.digest] = _joined(known, found, cell)
            elif found.records:
                merged[cell.configuration.digest] = found
        if stale:
            notes.append(f"{name}: {stale} configurations of a model since replaced were left out.")
    results = sorted(merged.values(), key=_order(list(runs)))
    return Collection(runs, results, notes)


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


def _different(known: Result, found: Result) -> list[int]:
    """The images, the same by their checksums, whose records cannot both be right."""
    shared = [index for index in found.records if index in known.records]
    pairs = {index: (known.records[index], found.records[index]) for index in shared}
    same = {index: pair for index, pair in pairs.items() if len({one.checksum for one in pair} - {None}) < 2}
    return [index for index, (one, other) in same.items() if one.differs(other)]


def _joined(known: Result, found: Result, cell: Cell) -> Result:
    """Two parts of one configuration; of an image that both hold, the record that was known."""
    for index, record in found.records.items():
        sums = {record.checksum, known.records.get(index, record).checksum} - {None}
        if len(sums) > 1:
            raise RunError(
                f"{str(cell.folder)!r} and {known.model!r} hold records of different images under one place, "
                f"{index}, of {cell.configuration.dataset}: bin/evaluate --overwrite computes them anew"
            )
    together = dict(sorted({**found.records, **known.records}.items()))
    return dataclasses.replace(known, records=together, images=known.images.beside(found.images))


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
