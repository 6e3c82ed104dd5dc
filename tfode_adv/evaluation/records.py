"""Evaluation records: one JSON line an image and configuration, in files that survive a kill.

A run folder holds one cell a configuration:

    RUN/evaluations/<digest>/cell.json               the configuration, in full; what began the cell
    RUN/evaluations/<digest>/records-<tag>-<k>.jsonl one `Record` a line, appended batch by batch
    RUN/evaluations/<digest>/image-<index>.npz       a handful of clean and adversarial images

Every process appends to a file of its own, so shards share a folder, and the folders of several machines
merge by copying. A reader drops a torn last line: a process was killed while it wrote it, and the same
command computes that image again.
"""

import dataclasses
import functools
import io
import json
import math
import os
import pathlib
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tfode_adv import files, runs
from tfode_adv.errors import RunError
from tfode_adv.evaluation import kept
from tfode_adv.evaluation.configuration import Configuration

FORMAT = 1
FOLDER = "evaluations"
# Predicted where a solve failed, or the logits are not finite, on an attacked image: no class, so never the right one.
NO_ANSWER = -1


@dataclasses.dataclass(frozen=True)
class Record:
    """One image under one configuration.

    Attributes:
        index: the image's place in its split.
        label, clean, adversarial: the true class, and the classes predicted without and with the attack
            (`NO_ANSWER` where an attacked image leaves the model without an answer).
        success: the clean prediction was right and the adversarial one is not.
        distance: of the adversarial image from the clean one, in the attack's norm.
        queries, gradients: forward passes and gradients that the attack took.
        nfe_clean, nfe_adversarial: evaluations of the dynamics, 0 for a model without ODE blocks.
        margin_clean, margin_adversarial: logit of the label less the largest other one; NaN without an answer.
        checksum: `checksum_of` the image and its label; None in records of before there was one.
    """

    index: int
    label: int
    clean: int
    adversarial: int
    success: bool
    distance: float | None
    queries: int
    gradients: int
    nfe_clean: int
    nfe_adversarial: int
    margin_clean: float | None
    margin_adversarial: float | None
    checksum: int | None = None

    @property
    def correct(self) -> bool:
        """Whether the clean image is classified correctly."""
        return self.clean == self.label

    def to_line(self) -> str:
        """One line of JSON, its newline included."""
        values = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in vars(self).items()
        }
        return json.dumps(values, separators=(",", ":"), allow_nan=False) + "\n"

    @classmethod
    def from_line(cls, line: str) -> "Record":
        """The inverse of `to_line`. Raises ValueError or TypeError when it is no record."""
        return cls(**json.loads(line))


class Cell:
    """The records of one configuration in one run folder.

    Args:
        folder: the cell's own folder; nothing is written before the first record.
        configuration: what the records are of.
        tag: part of the names of the files this process writes; shards on several machines need one each.
    """

    def __init__(self, folder: files.PathLike, configuration: Configuration, tag: str = "1of1") -> None:
        self.folder = pathlib.Path(folder)
        self.configuration = configuration
        self._tag = tag
        self._file: pathlib.Path | None = None

    @classmethod
    def of(cls, run: files.PathLike, configuration: Configuration, tag: str = "1of1") -> "Cell":
        """The cell of a configuration under a run folder, there already or not."""
        return cls(pathlib.Path(run) / FOLDER / configuration.digest, configuration, tag)

    @classmethod
    def open(cls, folder: files.PathLike) -> "Cell":
        """A cell that is there already.

        Raises:
            RunError: if its cell.json is missing or corrupt; the message names the file.
        """
        path = pathlib.Path(folder) / "cell.json"
        values = files.read_json(path)
        try:
            if values["format"] != FORMAT:
                raise RunError(f"{str(path)!r} has format {values['format']!r}, but this version reads {FORMAT}")
            return cls(folder, Configuration.from_dict(values["configuration"]))
        except (KeyError, TypeError) as error:
            raise RunError(f"{str(path)!r} is corrupt: not a cell ({error})") from error

    def records(self) -> dict[int, Record]:
        """Every record of the cell by its image's index, in the order of the images.

        Raises:
            RunError: if a line other than a file's torn last one is no record; the message names the file.
        """
        found: dict[int, Record] = {}
        for path in sorted(self.folder.glob("records-*.jsonl")):
            for record in _read(path):
                found.setdefault(record.index, record)
        return dict(sorted(found.items()))

    def append(self, records: Iterable[Record]) -> None:
        """Adds records to this process's file, and returns when they are on the disk."""
        data = "".join(record.to_line() for record in records).encode("utf-8")
        if not data:
            return
        try:
            if self._file is None:
                self._file = self._begin()
            with open(self._file, "ab", buffering=0) as file:
                file.write(data)
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"cannot write {str(self.folder)!r}: {error.strerror or error}") from error

    def discard(self, indices: Iterable[int]) -> None:
        """Removes the records of these images and what is kept of them, so that they are computed anew."""
        unwanted = set(indices)
        for path in sorted(self.folder.glob("records-*.jsonl")):
            found = list(_read(path))
            left = [record for record in found if record.index not in unwanted]
            if not left:
                path.unlink()
            elif len(left) < len(found):
                files.write_atomic(path, "".join(record.to_line() for record in left))
        for index in unwanted.intersection(self.images()):
            kept.file_of(self.folder, index).unlink(missing_ok=True)

    def save_image(self, index: int, clean: np.ndarray, adversarial: np.ndarray) -> None:
        """Keeps one image, [H, W, C] in [0, 1], before and after the attack."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, clean=clean, adversarial=adversarial)
        files.write_atomic(kept.file_of(self.folder, index), buffer.getvalue())

    def has_image(self, index: int) -> bool:
        """Whether this image is kept."""
        return kept.file_of(self.folder, index).is_file()

    def images(self) -> kept.Kept:
        """The kept images by index: clean, adversarial; each is read when it is looked at."""
        return kept.Kept.of(self.folder)

    def _begin(self) -> pathlib.Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        description = self.folder / "cell.json"
        if not description.exists():
            # What began the cell is for a reader: it is no part of the digest, and nothing depends on it.
            values = {"format": FORMAT, "configuration": self.configuration.as_dict(), **_program()}
            files.write_json(description, values)
        number = 1
        while True:
            path = self.folder / f"records-{self._tag}-{number:04d}.jsonl"
            try:
                path.open("xb").close()
                return path
            except FileExistsError:
                number += 1


def checksum_of(image: np.ndarray, label: int) -> int:
    """A short checksum of one image [H, W, C] and its label, in [0, 2^32): the same for the same pixels only."""
    pixels = np.ascontiguousarray(image, np.float32)
    return zlib.crc32(int(label).to_bytes(8, "little", signed=True), zlib.crc32(pixels))


def cells(run: files.PathLike) -> list[Cell]:
    """The cells of a run folder, in the order of their digests; none where nothing was evaluated."""
    return [Cell.open(path.parent) for path in sorted(pathlib.Path(run).glob(f"{FOLDER}/*/cell.json"))]


@functools.cache
def _program() -> dict[str, Any]:
    """What computes records: versions and the checkout's revision."""
    return {"versions": runs.versions(), "git_revision": runs.git_revision()}


def _read(path: pathlib.Path) -> Iterator[Record]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise RunError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    # What follows the last newline is empty, or was torn by a kill.
    for number, line in enumerate(lines[:-1], start=1):
        try:
            yield Record.from_line(line.decode("utf-8"))
        except (ValueError, TypeError) as error:
            raise RunError(f"{str(path)!r} is corrupt at line {number}: {error}") from error
