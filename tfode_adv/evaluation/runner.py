"""A grid of configurations over one model's images, continued where it was stopped."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from tfode_adv import progress
from tfode_adv.errors import RunError
from tfode_adv.evaluation.configuration import Configuration
from tfode_adv.evaluation.records import Cell, Record, checksum_of
from tfode_adv.evaluation.shards import Shard
from tfode_adv.files import PathLike
from tfode_adv.models.answers import Answers

KEEP_IMAGES = 8


class Damaged(RunError):
    """Cells that cannot be read: all others were evaluated."""


class Subject(Protocol):
    """What is evaluated: a model that knows how to put itself under a configuration."""

    def predict(self, configuration: Configuration, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits [N, classes] and evaluations of the dynamics [N] of images [N, H, W, C]."""

    def attack(
        self,
        configuration: Configuration,
        images: np.ndarray,
        labels: np.ndarray,
        indices: np.ndarray,
        progress: Callable[[int], None],
    ) -> Any:
        """The attack's result on correctly classified images: `x_adv`, `distance`, `queries`, `gradients`.

        And `answers`, what the model says of `x_adv`, where the attack knows; else it is asked by `predict`.
        `indices` are the images' places in their split, which name their random numbers; `progress` is
        called with how many images are done since.
        """


@dataclasses.dataclass
class _Job:
    """What is left to do of one cell, and the records that are there."""

    cell: Cell
    indices: list[int]
    done: dict[int, Record]


def evaluate(
    subject: Subject,
    images: np.ndarray,
    labels: np.ndarray,
    configurations: Iterable[Configuration],
    run: PathLike,
    *,
    shard: Shard | None = None,
    batch_size: int = 128,
    keep_images: int = KEEP_IMAGES,
    bar: Callable = progress.bar,
) -> int:
    """Computes the records that are missing and writes them to the run folder, batch by batch.

    The clean pass under each solver setting is a cell of its own, so no two attacks repeat it. Only
    correctly classified images are attacked; the others keep their clean prediction.

    Args:
        subject: the model and its attacks.
        images: [N, H, W, C] in [0, 1], the first N of the split.
        labels: [N] integers.
        configurations: what to evaluate; the clean passes they rest on are added.
        run: the run folder.
        shard: the part of the images to do; all of them by default.
        batch_size: images before the first write to the disk; later ones are ten seconds to a minute apart.
        keep_images: how many of the first images each cell keeps for pictures.
        bar: makes the progress bar.

    Returns:
        How many records were computed.

    Raises:
        RunError: if the run folder holds records of other images under these places of the split.
        Damaged: at the end, if a cell, or the clean pass that it rests on, is damaged.
    """
    shard = shard or Shard()
    wanted = shard.indices(len(images))
    jobs, damaged = _jobs([Cell.of(run, cell, shard.tag) for cell in in_order(configurations)], wanted, keep_images)
    sums = {index: checksum_of(images[index], labels[index]) for index in wanted}
    for job in jobs:
        _check_images(job, sums)
    total = sum(len(job.indices) for job in jobs)
    clean: dict[str, dict[int, Record]] = {}
    with bar(total=total, desc="evaluating", unit="image") as moving:
        for job in jobs:
            configuration = job.cell.configuration
            moving.set_postfix(cell=describe(configuration))
            known = clean.get(configuration.clean.digest, {})
            for batch in _paced(job.indices, batch_size):
                step = _Step(moving.update, len(batch))
                rows = np.asarray(batch)
                records, adversarial = _compute(subject, configuration, images[rows], labels[rows], rows, known, step)
                # The pictures first: an image with a record is never looked at again.
                for row, index in enumerate(batch):
                    if _kept(configuration, index, keep_images):
                        job.cell.save_image(index, images[index], adversarial[row])
                # One that is done was computed again for its picture alone.
                new = [record for record in records if record.index not in job.done]
                job.cell.append(dataclasses.replace(record, checksum=sums[record.index]) for record in new)
                step.finish()
            if configuration.attack == "none":
                clean[configuration.digest] = job.cell.records()
    if damaged:
        more = f" ({len(damaged) - 1} more configurations were left out)" if len(damaged) > 1 else ""
        raise Damaged(f"{next(iter(damaged.values()))}{more}")
    return total


def forget(configurations: Iterable[Configuration], run: PathLike, indices: Iterable[int]) -> None:
    """Removes the records of these images and the pictures kept of them, so that `evaluate` computes them anew."""
    indices = list(indices)
    for configuration in in_order(configurations):
        Cell.of(run, configuration).discard(indices)


def in_order(configurations: Iterable[Configuration]) -> list[Configuration]:
    """Each configuration once, those of one solver setting together, its clean pass first."""
    groups: dict[str, dict[str, Configuration]] = {}
    for configuration in configurations:
        clean = configuration.clean
        group = groups.setdefault(clean.digest, {clean.digest: clean})
        group.setdefault(configuration.digest, configuration)
    return [configuration for group in groups.values() for configuration in group.values()]


def describe(configuration: Configuration) -> str:
    """A few words that tell one configuration of a grid from another."""
    parts = [configuration.attack]
    parts += [f"{configuration.norm} {configuration.eps:g}"] if configuration.eps is not None else []
    parts += [configuration.gradient] if configuration.gradient else []
    parts += [f"tol {configuration.tol:g}"] if configuration.tol is not None else []
    parts += ["tol {:g} to {:g}".format(*configuration.random_tol)] if configuration.random_tol else []
    return " ".join(parts)


def _jobs(cells: Iterable[Cell], wanted: Sequence[int], keep_images: int) -> tuple[list[_Job], dict[str, RunError]]:
    """What is left to do of each cell; by the digest of one that cannot be read, why."""
    jobs: list[_Job] = []
    damaged: dict[str, RunError] = {}
    for cell in cells:
        configuration = cell.configuration
        if configuration.clean.digest in damaged:
            damaged[configuration.digest] = damaged[configuration.clean.digest]
            continue
        try:
            jobs.append(_job(cell, wanted, keep_images))
        except RunError as error:
            damaged[configuration.digest] = error
    return jobs, damaged


def _job(cell: Cell, wanted: Sequence[int], keep_images: int) -> _Job:
    """The images without a record, and those that more pictures are now wanted of."""
    done = cell.records()

    def open_(index: int) -> bool:
        picture = _kept(cell.configuration, index, keep_images)
        return index not in done or (picture and not cell.has_image(index))

    return _Job(cell, [index for index in wanted if open_(index)], done)


def _check_images(job: _Job, sums: Mapping[int, int]) -> None:
    """Raises RunError where a record that is there is not of the image that now has its place."""
    cell = job.cell.configuration
    for index, record in job.done.items():
        if record.checksum is not None and sums.get(index, record.checksum) != record.checksum:
            raise RunError(
                f"{str(job.cell.folder)!r} holds records of other images than those now read: image {index} of "
                f"{cell.dataset} ({cell.split}) has another checksum; --overwrite computes all of them anew"
            )


def _kept(configuration: Configuration, index: int, keep_images: int) -> bool:
    return configuration.attack != "none" and index < keep_images


def _compute(subject, configuration, images, labels, indices, known, progress) -> tuple[list[Record], np.ndarray]:
    """The records of a batch, and its images under the attack."""
    if configuration.attack == "none":
        return _clean(subject, configuration, images, labels, indices), images
    clean = [known[int(index)] for index in indices]
    return _attacked(subject, configuration, images, clean, progress)


def _clean(subject, configuration, images, labels, indices) -> list[Record]:
    answers = _predict(subject, configuration, images)
    failed = np.count_nonzero(answers.no_answer)
    if failed:
        raise RunError(f"the model's logits are not finite for {failed} of {len(images)} images")
    predicted, margins = answers.prediction.tolist(), answers.margin(labels).tolist()
    return [
        Record(
            index=int(indices[row]),
            label=int(labels[row]),
            clean=predicted[row],
            adversarial=predicted[row],
            success=False,
            distance=0.0,
            queries=0,
            gradients=0,
            nfe_clean=int(answers.nfe[row]),
            nfe_adversarial=int(answers.nfe[row]),
            margin_clean=margins[row],
            margin_adversarial=margins[row],
        )
        for row in range(len(images))
    ]


def _attacked(subject, configuration, images, clean, progress) -> tuple[list[Record], np.ndarray]:
    records, adversarial = list(clean), images.copy()
    rows = [row for row, record in enumerate(clean) if record.correct]
    if not rows:
        return records, adversarial
    labels = np.asarray([clean[row].label for row in rows])
    indices = np.asarray([clean[row].index for row in rows])
    result = subject.attack(configuration, images[rows], labels, indices, progress)
    adversarial[rows] = result.x_adv
    # What the attack has verified is not asked again: of a randomised model that would be another answer.
    answers = getattr(result, "answers", None) or _predict(subject, configuration, adversarial[rows])
    predicted, margins = answers.prediction.tolist(), answers.margin(labels).tolist()
    for place, row in enumerate(rows):
        records[row] = dataclasses.replace(
            clean[row],
            adversarial=predicted[place],
            success=predicted[place] != clean[row].label,
            distance=float(result.distance[place]),
            queries=int(result.queries[place]),
            gradients=int(result.gradients[place]),
            nfe_adversarial=int(answers.nfe[place]),
            margin_adversarial=margins[place],
        )
    return records, adversarial


def _predict(subject, configuration, images) -> Answers:
    logits, nfe = subject.predict(configuration, images)
    return Answers.told(logits, nfe)


def _paced(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Batches that grow where they are done in under ten seconds, and shrink where they take a minute."""
    start = 0
    while start < len(indices):
        began = time.monotonic()
        yield indices[start : start + size]
        start += size
        seconds = time.monotonic() - began
        size = size * 2 if seconds < 10 else max(1, size // 2) if seconds > 60 else size


class _Step:
    """Moves a bar by a batch: as the attack tells, but never beyond the batch (restarts tell twice)."""

    def __init__(self, update: Callable[[int], Any], size: int) -> None:
        self._update, self._left = update, size

    def __call__(self, count: int) -> None:
        count = min(count, self._left)
        self._left -= count
        self._update(count)

    def finish(self) -> None:
        self(self._left)
