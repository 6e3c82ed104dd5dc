"""Evaluation records: one JSON line an image and configuration, in files that survive a kill.

A run folder holds one cell a configuration:

    RUN/evaluations/<digest>/cell.json               the configuration, in full; what began the cell
    RUN/evaluations/<digest>/records-<tag>-<k>.jsonl one `Record` a line, appended batch by batch
    RUN/evaluations/<digest>/image-<index>.npz       a handful of clean and adversarial images

Every process appends to a file of its own, so shards share a folder, and the folders of several machines
merge by copying. A reader drops a torn last line: a process was killed while it wrote it, and the same
command computes that image again. A line ends with a seal, a checksum of its text and its cell's digest, so
that neither a changed record nor another cell's passes for one; a cell that holds such a line is not read.
"""

import dataclasses
import functools
import io
import json
import math
import pathlib
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tfode_adv import files, run_folder
from tfode_adv.errors import RunError
from tfode_adv.evaluation import kept_images
from tfode_adv.evaluation.configuration import Configuration
from tfode_adv.models.answers import NO_ANSWER

# In format 1 lines had no seals.
FORMAT, READ = 2, (1, 2)
FOLDER, _DESCRIPTION = "evaluations", "cell.json"
_SEAL = re.compile(r',"seal":"([0-9a-f]{8})"}$')
_ANEW = "bin/evaluate --overwrite computes it anew"


@dataclasses.dataclass(frozen=True)
class Record:
    """One image under one configuration.

    Attributes:
        index: the image's place in its split.
        label, clean, adversarial: the true class, and the classes predicted without and with the attack
            (`NO_ANSWER` where an attacked image leaves the model without an answer).
        success: the clean prediction was right and the adversarial one is not.
        distance: how far the adversarial image is from the clean one, in the attack's norm.
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
        """The inverse of `to_line`. Raises ValueError or TypeError when it is no record, or contradicts itself."""
        record = cls(**files.parse_json(line))
        for name, (kind, low) in _KINDS.items():
            value = getattr(record, name)
            if type(value) not in kind or (low is not None and value is not None and value < low):
                raise ValueError(f"{name} is {value!r}")
        if record.success != (record.correct and record.adversarial != record.label):
            raise ValueError(
                f"success is {record.success}, but label {record.label}, clean {record.clean} and adversarial "
                f"{record.adversarial} say otherwise"
            )
        return record

    def differs(self, other: "Record") -> bool:
        """Whether these cannot both be of one image under one configuration, rounding aside."""
        sums = {self.checksum, other.checksum} - {None}
        classes = (self.label, self.clean, self.adversarial), (other.label, other.clean, other.adversarial)
        return len(sums) > 1 or classes[0] != classes[1]


_COUNT, _LENGTH = (int,), (int, float, type(None))
# The types that a record's values may have, and the least of them.
_KINDS: dict[str, tuple[tuple[type, ...], int | None]] = {
    "index": (_COUNT, 0),
    "label": (_COUNT, 0),
    "clean": (_COUNT, 0),
    "adversarial": (_COUNT, NO_ANSWER),
    "success": ((bool,), None),
    "distance": (_LENGTH, None),
    "queries": (_COUNT, 0),
    "gradients": (_COUNT, 0),
    "nfe_clean": (_COUNT, 0),
    "nfe_adversarial": (_COUNT, 0),
    "margin_clean": (_LENGTH, None),
    "margin_adversarial": (_LENGTH, None),
    "checksum": ((int, type(None)), 0),
}


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
            RunError: if its cell.json is missing or corrupt, or not the one that its folder is named after; the
                message names the file.
        """
        return cls(folder, _described(pathlib.Path(folder))[0])

    def records(self) -> dict[int, Record]:
        """Every record of the cell by its image's index, in the order of the images.

        Raises:
            RunError: if a line other than a file's torn last one is no record, or not one of this cell, if two
                records of one image differ, or if the cell's description is not what its folder's name says; the
                message names the file.
        """
        paths = self._paths()
        if not paths:
            return {}
        found: dict[int, tuple[Record, pathlib.Path]] = {}
        _, sealed = _described(self.folder)
        for path in paths:
            for number, line in _lines(path):
                try:
                    record = self._record(line, sealed)
                except (ValueError, TypeError) as error:
                    raise RunError(f"{str(path)!r} is corrupt at line {number}: {error}; {_ANEW}") from error
                known, where = found.setdefault(record.index, (record, path))
                if known.differs(record):
                    raise RunError(
                        f"{str(path)!r} is corrupt at line {number}: {where.name!r} has another record of image "
                        f"{record.index}; {_ANEW}"
                    )
        return {index: found[index][0] for index in sorted(found)}

    def append(self, records: Iterable[Record]) -> None:
        """Adds records to this process's file, and returns when they are on the disk: all of them, or none.

        Raises:
            RunError: if they cannot be written; the message names the folder.
        """
        data = "".join(map(self._line, records)).encode("utf-8")
        if not data:
            return
        try:
            if self._file is None:
                self._file = self._begin()
            files.append_whole(self._file, data)
        except OSError as error:
            # Should the file have kept a torn end, nothing may follow it.
            self._file = None
            raise RunError(f"cannot write {str(self.folder)!r}: {error.strerror or error}") from error

    def discard(self, indices: Iterable[int]) -> None:
        """Removes the records of these images and what is kept of them, so that they are computed anew.

        Of a cell that cannot be read, what is damaged or not its own goes as well.
        """
        unwanted = set(indices)
        try:
            _, sealed = _described(self.folder)
        except RunError:
            # Whatever its records were made with: what tells is missing.
            sealed = True
            if self.folder.exists():
                self._describe()
        for path in self._paths():
            lines = [line for _, line in _lines(path)]
            left = [line for line in lines if self._stays(line, sealed, unwanted)]
            if not left:
                path.unlink()
            elif len(left) < len(lines):
                files.write_atomic(path, b"".join(line + b"\n" for line in left))
        for index in unwanted.intersection(self.images()):
            kept_images.file_of(self.folder, index).unlink(missing_ok=True)

    def save_image(self, index: int, clean: np.ndarray, adversarial: np.ndarray) -> None:
        """Keeps one image, [H, W, C] in [0, 1], before and after the attack."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, clean=clean, adversarial=adversarial)
        files.write_atomic(kept_images.file_of(self.folder, index), buffer.getvalue())

    def has_image(self, index: int) -> bool:
        """Whether this image is kept."""
        return kept_images.file_of(self.folder, index).is_file()

    def images(self) -> kept_images.Kept:
        """The kept images by index: clean, adversarial; each is read when it is looked at."""
        return kept_images.Kept.of(self.folder)

    def _paths(self) -> list[pathlib.Path]:
        return sorted(self.folder.glob("records-*.jsonl"))

    def _line(self, record: Record) -> str:
        text = record.to_line()
        return f'{text[:-2]},"seal":"{self._seal(text)}"}}\n'

    def _seal(self, text: str) -> str:
        return f"{zlib.crc32(f'{self.configuration.digest} {text}'.encode()):08x}"

    def _record(self, line: bytes, sealed: bool) -> Record:
        """The record on a line. Raises ValueError or TypeError when it is none, or none of this cell."""
        text = line.decode("utf-8")
        seal = _SEAL.search(text)
        if seal:
            text = text[: seal.start()] + "}\n"
            if self._seal(text) != seal[1]:
                raise ValueError("it was changed, or is another cell's: its seal is broken")
        elif sealed:
            raise ValueError("it has no seal")
        return Record.from_line(text)

    def _stays(self, line: bytes, sealed: bool, unwanted: set[int]) -> bool:
        try:
            return self._record(line, sealed).index not in unwanted
        except (ValueError, TypeError):
            return False

    def _describe(self) -> None:
        # What began the cell is for a reader: it is no part of the digest, and nothing depends on it.
        values = {"format": FORMAT, "configuration": self.configuration.as_dict(), **_program()}
        files.write_json(self.folder / _DESCRIPTION, values)

    def _begin(self) -> pathlib.Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / _DESCRIPTION).exists():
            self._describe()
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


def folders(run: files.PathLike) -> list[pathlib.Path]:
    """The folders of a run's cells, damaged ones too, in the order of their digests."""
    named = (_DESCRIPTION, "records-*.jsonl")
    return sorted({path.parent for name in named for path in pathlib.Path(run).glob(f"{FOLDER}/*/{name}")})


def cells(run: files.PathLike) -> list[Cell]:
    """The cells of a run folder, in the order of their digests. Raises RunError if one cannot be opened."""
    return [Cell.open(folder) for folder in folders(run)]


def _described(folder: pathlib.Path) -> tuple[Configuration, bool]:
    """What a cell's folder says that it holds, and whether its lines bear seals."""
    path = folder / _DESCRIPTION
    values = files.read_json(path)
    try:
        if values["format"] not in READ:
            raise RunError(f"{str(path)!r} has format {values['format']!r}, but this version reads {READ}")
        configuration = Configuration.from_dict(values["configuration"])
        digest = configuration.digest
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RunError(f"{str(path)!r} is corrupt: not a cell ({error})") from error
    if digest != folder.resolve().name:
        raise RunError(f"{str(path)!r} was changed: its digest is {digest}, which is not its folder's name")
    return configuration, values["format"] != 1


@functools.cache
def _program() -> dict[str, Any]:
    """What computes records: versions and the checkout's revision."""
    return {"versions": run_folder.versions(), "git_revision": run_folder.git_revision()}


def _lines(path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
    """A file's whole lines, counted from 1."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise RunError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    # What follows the last newline is empty, or was torn by a kill.
    return enumerate(lines[:-1], start=1)
