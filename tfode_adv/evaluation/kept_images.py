"""The images that evaluations kept, read when they are looked at: a run may hold thousands, and a page shows a few."""

import pathlib
from collections.abc import Iterator, Mapping

import numpy as np

from tfode_adv.errors import RunError

_PREFIX = "image-"


def file_of(folder: pathlib.Path, index: int) -> pathlib.Path:
    """Where a cell's folder keeps the image at this place of the split."""
    return folder / f"{_PREFIX}{index:06d}.npz"


class Kept(Mapping[int, tuple[np.ndarray, np.ndarray]]):
    """Images by index, ascending: clean and adversarial, [H, W, C] in [0, 1].

    Args:
        paths: their files by index. `Kept.of(folder)` finds those of a cell.

    Reading an image raises RunError if its file is corrupt; the message names it.
    """

    def __init__(self, paths: Mapping[int, pathlib.Path] | None = None) -> None:
        self._paths = dict(sorted((paths or {}).items()))

    @classmethod
    def of(cls, folder: pathlib.Path) -> "Kept":
        """The images that a cell's folder holds."""
        found = folder.glob(f"{_PREFIX}*.npz")
        return cls({int(number): path for path in found if (number := path.stem.removeprefix(_PREFIX)).isdecimal()})

    def beside(self, others: "Kept") -> "Kept":
        """These and the others; of an image that both hold, this one."""
        return Kept({**others._paths, **self._paths})

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        path = self._paths[index]
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return arrays["clean"], arrays["adversarial"]
        except Exception as error:  # numpy and zipfile raise a dozen kinds for a damaged archive
            raise RunError(f"{str(path)!r} is corrupt: {error}") from error

    def __iter__(self) -> Iterator[int]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)
