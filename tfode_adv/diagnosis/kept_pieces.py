"""Long work in named pieces, each kept in a file as soon as it is done, so that a killed run goes on.

A piece is reused only if the settings it was computed under are those asked for now.
"""

import hashlib
import io
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from tfode_adv import files
from tfode_adv.errors import RunError


class KeptPieces:
    """A folder of finished pieces.

    Args:
        folder: where the pieces are kept.
        settings: what every piece depends on (model, images, budget): anything JSON holds.
    """

    def __init__(self, folder: files.PathLike, settings: dict[str, Any]):
        self.folder = pathlib.Path(folder)
        self.settings = json.loads(json.dumps(settings))

    def __call__(
        self, name: str, compute: Callable[[], tuple[dict, dict[str, np.ndarray]]], **settings: Any
    ) -> tuple[dict, dict[str, np.ndarray]]:
        """The piece `name` under these settings: read if it is there, else computed and written.

        Args:
            compute: makes the piece: (what JSON holds, named arrays).
            settings: what this piece depends on beyond the folder's settings.
        """
        wanted = {"shared": self.settings, "own": json.loads(json.dumps(settings))}
        path = self.folder / f"{_slug(name, wanted)}.npz"
        if path.exists():
            kept = _read(path)
            if kept is not None and kept[0].pop("settings", None) == wanted:
                return kept
        values, arrays = compute()
        buffer = io.BytesIO()
        text = json.dumps({**values, "settings": wanted})
        np.savez_compressed(buffer, __json__=np.frombuffer(text.encode(), np.uint8), **arrays)
        files.write_atomic(path, buffer.getvalue())
        return json.loads(json.dumps(values)), arrays


def _slug(name: str, wanted: dict) -> str:
    digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:10]
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '_', name)}-{digest}"


def _read(path: pathlib.Path) -> tuple[dict, dict[str, np.ndarray]] | None:
    """A piece's values and arrays, or None for a damaged file, which is then computed anew."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        return json.loads(arrays.pop("__json__").tobytes().decode()), arrays
    except OSError as error:
        raise RunError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    except Exception:  # zip, zlib, json and numpy each have their own word for a damaged file
        return None
