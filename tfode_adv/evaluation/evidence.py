"""Evidence packs: all of a cell's images without and with the attack and what the model said of them, in one file.

    RUN/evaluations/<digest>/adversarial-<count>.npz             of the first so many images of the split
    RUN/evaluations/<digest>/adversarial-<count>-<shard>.npz     of a shard of them

A pack is all that is needed, but for the model, to compute its predictions, distances and successes again
(`recomputation.check`). It holds plain numpy arrays, a row an image:

    index                    [N] int64, the image's place in its split
    clean, adversarial       [N, H, W, C] float32 in [0, 1]
    clean_sha256, ...        [N] the SHA-256 of each image's bytes: float32, little endian, in the order of the array
    label                    [N] int64
    clean_prediction, ...    [N] int64, `NO_ANSWER` where an attacked image leaves the model without an answer
    success, distance        [N] bool; [N] float32, in the configuration's norm
    about                    JSON: the format, the configuration, the weights' SHA-256, what made it
    seal                     the SHA-256 of `about` and of every column but the images, which their own bind
"""

import dataclasses
import functools
import hashlib
import io
import json
import pathlib
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tfode_adv import files, run_folder
from tfode_adv.attacks.norm_names import NORMS
from tfode_adv.errors import RunError, check_choice
from tfode_adv.evaluation.configuration import Configuration
from tfode_adv.evaluation.records import Cell
from tfode_adv.evaluation.shards import Shard

FORMAT = 1
IMAGES = ("clean", "adversarial")
_DIGESTS = {name: f"{name}_sha256" for name in IMAGES}
# Their types and how many dimensions they have.
_COLUMNS = {
    "index": ("<i8", 1),
    **dict.fromkeys(IMAGES, ("<f4", 4)),
    **dict.fromkeys(_DIGESTS.values(), ("<U64", 1)),
    "label": ("<i8", 1),
    "clean_prediction": ("<i8", 1),
    "adversarial_prediction": ("<i8", 1),
    "success": ("|b1", 1),
    "distance": ("<f4", 1),
}
_NAMES = ("model", "dataset", "split", "attack", "norm", "solver", "gradient")


@dataclasses.dataclass(frozen=True, eq=False)
class Pack:
    """A pack as it was made or read.

    Attributes:
        about: a JSON text; see `configuration`, `weights` and `network`.
        columns: the arrays by their names; see this module.
        seal: the SHA-256 that the pack says it has.

    Raises:
        RunError: if the text describes no attack, or the columns are not those of a pack.
    """

    about: str
    columns: Mapping[str, np.ndarray]
    seal: str

    def __post_init__(self) -> None:
        try:
            for name in _NAMES:
                _check_name(name, getattr(self.configuration, name))
            check_choice("norm", self.configuration.norm, NORMS)
            _check_columns(self.columns)
            if self.said["format"] != FORMAT:
                raise ValueError(f"its format is {self.said['format']!r}, but this version reads {FORMAT}")
            if not isinstance(self.weights, str) or not isinstance(self.network, str | None):
                raise ValueError("it names no weights")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise RunError(f"no pack of bin/evaluate --save_adversarial: {error}") from error

    @classmethod
    def of(cls, cell: Cell, indices: Iterable[int], weights: str, network: str | None = None) -> "Pack":
        """The pack of some of a cell's images.

        Args:
            cell: of an attack, with a record and a kept image of each.
            indices: the images' places in the split, ascending.
            weights: the model's `weights_sha256`.
            network: the model's name in the zoo, if it is one of those.

        Raises:
            RunError: if the cell is damaged, or a record or an image is missing.
        """
        records, kept, indices = cell.records(), cell.images(), list(indices)
        missing = [index for index in indices if index not in records or index not in kept]
        if missing:
            raise RunError(
                f"{str(cell.folder)!r} lacks {len(missing)} of {len(indices)} images, the first {missing[0]}: "
                "bin/evaluate --save_adversarial attacks them again"
            )
        rows = [records[index] for index in indices]
        pairs = [kept[index] for index in indices]
        columns: dict[str, Any] = {name: [pair[place] for pair in pairs] for place, name in enumerate(IMAGES)}
        columns |= {digest: [sha256_of(image) for image in columns[name]] for name, digest in _DIGESTS.items()}
        columns |= {name: [getattr(row, name) for row in rows] for name in ("index", "label", "success")}
        columns |= {"clean_prediction": [row.clean for row in rows]}
        columns |= {"adversarial_prediction": [row.adversarial for row in rows]}
        columns |= {"distance": [np.nan if row.distance is None else row.distance for row in rows]}
        arrays = {name: np.asarray(columns[name], kind) for name, (kind, _) in _COLUMNS.items()}
        said = {"configuration": cell.configuration.as_dict(), "weights": weights, "network": network}
        program = {"versions": run_folder.versions(), "git_revision": run_folder.git_revision()}
        about = json.dumps({"format": FORMAT, **said, **program}, sort_keys=True)
        return cls(about, arrays, _sealed(about, arrays))

    @classmethod
    def read(cls, path: files.PathLike) -> "Pack":
        """Reads a pack. That nothing in it was changed is for `recomputation.check` to say.

        Raises:
            RunError: if the file cannot be read or is no pack; the message names it.
        """
        try:
            with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
                found = {name: _member(archive, name) for name in (*_COLUMNS, "about", "seal")}
        except OSError as error:
            raise RunError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
        except Exception as error:  # numpy and zipfile raise a dozen kinds for a damaged archive
            reason = " ".join(map(str, error.args)) or type(error).__name__
            raise RunError(f"{str(path)!r} is no pack of bin/evaluate --save_adversarial: {reason}") from error
        about, seal = str(found.pop("about")), str(found.pop("seal"))
        try:
            return cls(about, found, seal)
        except RunError as error:
            raise RunError(f"{str(path)!r} is {error}") from error

    def write(self, path: files.PathLike) -> None:
        """Writes the pack, all of it or nothing. Raises RunError if it cannot; the message names the file."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, about=self.about, seal=self.seal, **self.columns)
        files.write_atomic(path, buffer.getvalue())

    def __len__(self) -> int:
        return len(self["index"])

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    @functools.cached_property
    def said(self) -> dict[str, Any]:
        """All that `about` holds."""
        return files.parse_json(self.about)

    @functools.cached_property
    def configuration(self) -> Configuration:
        """What was attacked, and how."""
        return Configuration.from_dict(self.said["configuration"])

    @property
    def weights(self) -> str:
        """The `weights_sha256` of the attacked model."""
        return self.said["weights"]

    @property
    def network(self) -> str | None:
        """The model's name in the zoo, if it has one."""
        return self.said["network"]

    @property
    def intact(self) -> bool:
        """Whether the seal is that of the text and of every column but the images."""
        return self.seal == _sealed(self.about, self.columns)

    def changed(self, name: str) -> np.ndarray:
        """[N] bool: the image of the column `name`, one of `IMAGES`, has another SHA-256 than the pack says."""
        return np.asarray([sha256_of(image) for image in self[name]]) != self[_DIGESTS[name]]


def file_of(cell: Cell, count: int, shard: Shard) -> pathlib.Path:
    """Where the pack of a shard of the first `count` images of a cell's split lies."""
    part = "" if shard.count == 1 else f"-{shard.tag}"
    return cell.folder / f"adversarial-{count}{part}.npz"


def smallest_of(cell: Cell) -> pathlib.Path | None:
    """The pack of the fewest images of a cell, none of its shards; None where there is no pack."""
    found = {path: path.stem.removeprefix("adversarial-") for path in cell.folder.glob("adversarial-*.npz")}
    whole = [path for path, count in found.items() if count.isdecimal()]
    return min(whole, key=lambda path: int(found[path]), default=None)


def weights_sha256(weights: Sequence[np.ndarray]) -> str:
    """The SHA-256 of a model's weights, `model.get_weights()`: of type, shape and bytes of each, in their order.

    The same for the same weights, whatever file they are in and whatever their layers are called.
    """
    digest = hashlib.sha256()
    for array in weights:
        digest.update(f"{array.dtype.name} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def sha256_of(image: np.ndarray) -> str:
    """The SHA-256 of an image's bytes as little-endian float32, in the order of the array."""
    return hashlib.sha256(np.ascontiguousarray(image, "<f4").tobytes()).hexdigest()


def _member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _sealed(about: str, columns: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(f"{about}\n".encode())
    for name in _COLUMNS:
        digest.update(f"{name} {columns[name].shape}\n".encode())
        if name not in IMAGES:
            digest.update(columns[name].tobytes())
    return digest.hexdigest()


def _check_name(name: str, value: Any) -> None:
    """Raises ValueError unless a name can be shown, or is None."""
    if value is not None and not (isinstance(value, str) and (value.isprintable() or name == "dataset")):
        raise ValueError(f"{name} is {value!r}")


def _check_columns(columns: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError unless each has its type and a row for each index, and the indices are in order."""
    index = columns["index"]
    for name, (kind, rank) in _COLUMNS.items():
        column = columns[name]
        if column.dtype.str != kind or column.ndim != rank or len(column) != len(index):
            raise ValueError(f"{name} is an array of {column.dtype.name} {column.shape}, beside {index.shape} indices")
    if columns["clean"].shape != columns["adversarial"].shape:
        raise ValueError("its clean and its adversarial images are of different shapes")
    if not len(index) or index[0] < 0 or (np.diff(index) <= 0).any():
        raise ValueError("its indices are not in order, or there are none")
