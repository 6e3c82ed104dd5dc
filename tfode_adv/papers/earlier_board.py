"""What a board said that was made before: its rows stand where no run here holds anything of a claim."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tfode_adv import files
from tfode_adv.errors import RunError
from tfode_adv.evaluation.evidence import Pack
from tfode_adv.papers.board import Row, Worst, record
from tfode_adv.papers.board_page import JSON
from tfode_adv.rendering.rates import Rate

# What tells one claim's record from another's.
_KEY = ("name", "dataset", "threat_model", "eps")


def completed(found: Sequence[Row], folder: files.PathLike) -> list[Row]:
    """`found`, with the rows of the board in `folder` for claims of which nothing was found.

    A row is one network's: it is taken whole or not at all.

    Raises:
        RunError: if the board that is there is damaged.
    """
    path = pathlib.Path(folder) / JSON
    if not path.exists():
        return list(found)
    values = files.read_json(path)
    try:
        earlier = {_key(one): one for one in values if one["published_attack"]["ours"] or one["worst_case"]}
        return [
            _row(row, earlier[key], path.parent)
            if row.robust is None and row.worst is None and (key := _key(record(row))) in earlier
            else row
            for row in found
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{str(path)!r} is damaged: no board ({error!r})") from error


def _key(one: Mapping[str, Any]) -> tuple:
    return *(one[name] for name in _KEY), one["published_attack"]["name"], one["published_attack"]["tol"]


def _row(row: Row, said: Mapping[str, Any], folder: pathlib.Path) -> Row:
    robust, worst = _rate(said["published_attack"]["ours"]), said["worst_case"]
    clean = None
    if robust is not None and said["clean_acc"] is not None:
        clean = Rate(round(float(said["clean_acc"]) / 100 * robust.total), robust.total)
    if worst is not None:
        worst = Worst(**{**worst, "rate": _rate(worst["rate"])})
    pack = None if said["evidence"] is None else Pack.read(folder / pathlib.PurePath(said["evidence"]))
    return dataclasses.replace(
        row, clean=clean, robust=robust, worst=worst, commands=list(said["commands"]), notes=(), pack=pack
    )


def _rate(values: Mapping[str, Any] | None) -> Rate | None:
    return None if values is None else Rate(int(values["count"]), int(values["total"]))
