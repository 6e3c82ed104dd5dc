"""Checkpoints: plain arrays in one file, whole or absent, and the lock on the folder that holds them.

A file is an `.npz` without pickled objects: named arrays and a JSON note. It is written aside and renamed
to `step-<updates>-<sha256, 16 digits>.npz`, so that name, content and checksum appear together.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import pathlib
import re
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tfode_adv.errors import RunError
from tfode_adv.files import PathLike, write_atomic

ANEW = "--overwrite in place of --resume starts anew"
_NOTE = "note.json"
_DIGITS = 16
_NAME = re.compile(rf"(?P<stem>.+)-(?P<digest>[0-9a-f]{{{_DIGITS}}})\.npz")
_DAMAGE = (OSError, ValueError, KeyError, zipfile.BadZipFile)


class Checkpoints:
    """The checkpoints of a run: the last `keep` of the training's state, and the best weights.

    Args:
        folder: where the files are; made when first written to.
        keep: how many of the training's states stay.
        report: called with one line for each file that was passed over because it is damaged.
    """

    def __init__(self, folder: PathLike, keep: int = 3, report: Callable[[str], None] = lambda line: None):
        self.folder, self.keep, self.report = pathlib.Path(folder), keep, report

    def tidy(self) -> None:
        """Deletes what writes that were killed left aside; for the process that holds the folder's lock."""
        for stem in ("step", "best"):
            for aside in self.folder.glob(f".{stem}-*"):
                aside.unlink(missing_ok=True)

    def newest_or_damaged(self) -> tuple[dict[str, np.ndarray], dict[str, Any], pathlib.Path] | None:
        """`newest`, for the training that goes on from it; damaged newer ones are set aside.

        Raises:
            RunError: if there are checkpoints, but all are damaged; they are left as they are.
        """
        found, files = self.newest(), self._files("step-*")
        if found is None and files:
            raise RunError(f"every checkpoint in {str(self.folder)!r} is damaged, and none was touched: {ANEW}")
        for path in files:
            if path == found[2]:
                break
            self._set_aside(path)
        return found

    def save(self, step: int, arrays: dict[str, np.ndarray], note: dict[str, Any]) -> pathlib.Path:
        """Writes the state after `step` updates; drops those of later steps, and what is older than the last `keep`."""
        stem = f"step-{step:09d}"
        path = self._write(stem, arrays, note)
        others = [other for other in self._files("step-*") if other != path]
        # A later step is damaged, or of a course that the training did not take: it must not pass for the newest.
        later = [other for other in others if _stem(other) > stem]
        earlier = [other for other in others if _stem(other) <= stem]
        for old in later:
            if self._whole(old):
                old.unlink(missing_ok=True)
            else:
                self._set_aside(old)
        for old in earlier[self.keep - 1 :]:
            old.unlink(missing_ok=True)
        return path

    def save_best(self, arrays: dict[str, np.ndarray], note: dict[str, Any]) -> pathlib.Path:
        """Writes the best weights so far in place of the ones before."""
        path = self._write("best", arrays, note)
        for old in self._files("best"):
            if old != path:
                old.unlink(missing_ok=True)
        return path

    def newest(self) -> tuple[dict[str, np.ndarray], dict[str, Any], pathlib.Path] | None:
        """Arrays, note and path of the newest whole state, or None; damaged ones are reported."""
        return self._first_whole("step-*")

    def best(self) -> tuple[dict[str, np.ndarray], dict[str, Any], pathlib.Path] | None:
        """Arrays, note and path of the best weights, or None."""
        return self._first_whole("best")

    def _files(self, stem: str) -> list[pathlib.Path]:
        """The files of that stem, newest first."""
        ages = {}
        for path in self.folder.glob(f"{stem}-*.npz"):
            if _NAME.fullmatch(path.name):
                # A training that writes here drops old files between the listing and the question.
                with contextlib.suppress(FileNotFoundError):
                    ages[path] = (_stem(path), path.stat().st_mtime_ns)
        return sorted(ages, key=ages.get, reverse=True)

    def _whole(self, path: pathlib.Path) -> bool:
        try:
            self._read(path)
        except FileNotFoundError:
            return True
        except _DAMAGE:
            return False
        return True

    def _set_aside(self, path: pathlib.Path) -> None:
        """Moves a damaged file out of the way: whoever knows how may still read something from it."""
        aside = self.folder.with_name(f"{self.folder.name}-damaged")
        aside.mkdir(exist_ok=True)
        path.replace(aside / path.name)
        self.report(f"{str(path)!r} was moved to {str(aside)!r}")

    def _write(self, stem: str, arrays: dict[str, np.ndarray], note: dict[str, Any]) -> pathlib.Path:
        buffer = io.BytesIO()
        text = np.frombuffer(json.dumps(note).encode("utf-8"), np.uint8)
        np.savez(buffer, **{_NOTE: text}, **arrays)
        data = buffer.getvalue()
        path = self.folder / f"{stem}-{hashlib.sha256(data).hexdigest()[:_DIGITS]}.npz"
        write_atomic(path, data)
        return path

    def _first_whole(self, stem: str):
        """The newest whole file's content; a training may replace files meanwhile: it is listed anew when one went."""
        went = True
        while went:
            went = False
            for path in self._files(stem):
                try:
                    return *self._read(path), path
                except FileNotFoundError:
                    went = True
                except _DAMAGE as error:
                    self.report(f"{str(path)!r} is damaged ({error}); trying the one before it")
        return None

    def _read(self, path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        data = path.read_bytes()
        if not hashlib.sha256(data).hexdigest().startswith(_NAME.fullmatch(path.name)["digest"]):
            raise ValueError("its checksum differs")
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = dict(file)
        return arrays, json.loads(arrays.pop(_NOTE).tobytes())


def _stem(path: pathlib.Path) -> str:
    return _NAME.fullmatch(path.name)["stem"]


@contextlib.contextmanager
def locked(folder: PathLike) -> Iterator[None]:
    """Holds the folder for this process; the lock goes with the process, however that ends.

    Raises:
        RunError: if another process holds it.
    """
    folder = pathlib.Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise RunError(f"cannot use {str(folder)!r}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"{str(folder)!r} is in use by another training; choose another --run_dir") from None
        yield
    finally:
        os.close(handle)
