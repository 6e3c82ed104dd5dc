"""Files that are never half written."""

import hashlib
import json
import os
import pathlib
import tempfile
from typing import Any

from tfode_adv.errors import RunError

PathLike = str | os.PathLike


def write_atomic(path: PathLike, data: bytes | str) -> None:
    """Writes `data` beside `path` and renames it into place, so that a reader sees all of it or none.

    Raises:
        RunError: if the folder cannot be written; the message names the file.
    """
    path = pathlib.Path(path)
    if isinstance(data, str):
        data = data.encode("utf-8")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes files private; what a run leaves should be readable like any other file.
            os.chmod(aside, 0o644)
            os.replace(aside, path)
        except BaseException:
            pathlib.Path(aside).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise RunError(f"cannot write {str(path)!r}: {error.strerror or error}") from error


def append_whole(path: PathLike, data: bytes) -> None:
    """Appends `data` to a file and returns when it is on the disk; where not all of it fits, none of it stays.

    Raises:
        OSError: if it cannot be written.
    """
    with open(path, "ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(before)
            raise


def write_json(path: PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path: PathLike) -> Any:
    """Reads a JSON file.

    Raises:
        RunError: if the file is missing, unreadable or not JSON; the message names the file.
    """
    try:
        return parse_json(pathlib.Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    except ValueError as error:
        raise RunError(f"{str(path)!r} is corrupt: not JSON ({error})") from error


def parse_json(text: str) -> Any:
    """What JSON text holds. Raises ValueError for anything else: NaN and infinities, nesting without end."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def sha256(path: PathLike) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
