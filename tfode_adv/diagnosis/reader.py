"""What `bin/diagnose` left in a run folder, as sections of a report.

`RUN/diagnosis/diagnosis.json` holds, beside whatever else its reader wants, what a page shows of it:

    {"model": "SHA-256 of the model.keras that was diagnosed",
     "report": [{"title": "...", "lines": ["..."], "verdicts": ["..."],
                 "tables": [{"title": "...", "headers": ["..."], "rows": [[...]], "note": "..."}],
                 "figures": [{"file": "surface.png", "title": "...", "text": "..."}]}]}

A diagnosis of other weights than the run's is not shown: its verdict would stand beside numbers it is not
about. A table's value is text, a number, null, or a rate `{"count": 3, "total": 10}`; "pass" and "fail" are shown as
such. A figure's file lies beside the JSON, a PNG or an SVG.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tfode_adv import files
from tfode_adv.errors import RunError
from tfode_adv.rendering.charts import Picture
from tfode_adv.rendering.document import Section
from tfode_adv.rendering.rates import Rate
from tfode_adv.rendering.tables import Table
from tfode_adv.run_folder import Run

FOLDER, NAME, _EARLIER = "diagnosis", "diagnosis.json", "earlier-*.json"


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The sections of a run's diagnosis, none where there is none to show, and notes on what is not shown.

    Attributes:
        document: the JSON file that the sections are read from, None where there is none to show.
    """

    sections: Sequence[Section] = ()
    notes: Sequence[str] = ()
    document: Mapping[str, Any] | None = None


def read(name: str, run: Run) -> Diagnosis:
    """The diagnosis of a run, each section under the name shown for the run.

    Raises:
        RunError: if the file is corrupt or a figure is missing; the message names the file.
    """
    path = run.path / FOLDER / NAME
    if not path.exists():
        return Diagnosis()
    values = files.read_json(path)
    try:
        if run.finished and values.get("model") != files.sha256(run.model_path):
            of = "a model since replaced" if values.get("model") else "an unknown model"
            return Diagnosis(notes=[f"{name}: a diagnosis of {of} was left out; bin/diagnose makes it anew."])
        return Diagnosis(sections(name, values, path.parent), document=values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{str(path)!r} is corrupt: not a diagnosis ({error!r})") from error


def documents(document: Mapping[str, Any] | None, run: Run) -> list[Mapping[str, Any]]:
    """A run's diagnosis, if there is one to show, and those of the same model before it: at other norms, radii or
    tolerances.
    """
    if document is None:
        return []
    kept = [files.read_json(path) for path in sorted((run.path / FOLDER).glob(_EARLIER))]
    return [document, *(one for one in kept if one.get("model") == document["model"])]


def keep_other(folder: pathlib.Path, document: Mapping[str, Any]) -> None:
    """Before `document` is written: what is there of the same model, if not all is said anew, gets a name of its own.

    Its pictures are written over; `documents` finds its figures.
    """
    for path in folder.glob(_EARLIER):
        if _covers(document, _readable(path)):
            path.unlink()
    old = _readable(folder / NAME)
    if old and old.get("model") == document["model"] and not _covers(document, old):
        files.write_json(folder / _earlier_name(old), old)


def _readable(path: pathlib.Path) -> Mapping[str, Any] | None:
    """The diagnosis in a file; None where there is none, or a damaged one, which no new one may fail for."""
    try:
        document = files.read_json(path)
        _place(document)
    except (RunError, KeyError, TypeError):
        return None
    return document


def _earlier_name(document: Mapping[str, Any]) -> str:
    norm, eps, tols = _place(document)
    return f"earlier-{norm}-{eps}-{'_'.join(map(str, tols))}.json"


def _covers(document: Mapping[str, Any], other: Mapping[str, Any] | None) -> bool:
    """Whether a diagnosis is at the norm, the radius and every tolerance of another, if there is another."""
    if other is None:
        return False
    (*ball, tols), (*other_ball, other_tols) = _place(document), _place(other)
    return ball == other_ball and set(other_tols) <= set(tols)


def _place(document: Mapping[str, Any]) -> tuple[str, float, list[float | None]]:
    settings = document["settings"]
    return settings["norm"], settings["ε"], [at["tol"] for at in document["tolerances"]]


def sections(name: str, document: Mapping[str, Any], folder: pathlib.Path) -> list[Section]:
    """The sections of a document whose figures lie in `folder`, each under the name shown for the model.

    Raises:
        RunError: if a figure is missing; the message names the file.
    """
    return [_section(name, part, folder) for part in document["report"]]


def set_aside(run: Run, model: str) -> pathlib.Path | None:
    """Moves a diagnosis of other weights than `model`, a SHA-256, out of the way; returns where it went."""
    folder = run.path / FOLDER
    try:
        old = files.read_json(folder / NAME).get("model")
    except (RunError, AttributeError):
        return None
    # One that names no model is written over: its pieces know theirs, and those of `model` are still good.
    if not isinstance(old, str) or old == model:
        return None
    stamps = itertools.chain([old[:8]], (f"{old[:8]}-{number}" for number in itertools.count(2)))
    aside = next(path for stamp in stamps if not (path := folder.with_name(f"{FOLDER}-{stamp}")).exists())
    return folder.rename(aside)


def _section(name: str, part: Mapping[str, Any], folder: pathlib.Path) -> Section:
    return Section(
        title=f"{part['title']}: {name}",
        lines=[str(line) for line in part.get("lines", ())],
        verdicts=[str(line) for line in part.get("verdicts", ())],
        tables=[_table(table) for table in part.get("tables", ())],
        pictures=[_picture(figure, folder) for figure in part.get("figures", ())],
    )


def _table(values: Mapping[str, Any]) -> Table:
    rows = [[_value(value) for value in row] for row in values["rows"]]
    return Table(str(values["title"]), [str(h) for h in values["headers"]], rows, str(values.get("note", "")))


def _value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Rate(int(value["count"]), int(value["total"]))
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _picture(values: Mapping[str, Any], folder: pathlib.Path) -> Picture:
    path = folder / pathlib.PurePath(values["file"]).name
    kind = path.suffix.removeprefix(".").lower()
    if kind not in ("png", "svg"):
        raise ValueError(f"a figure must be a png or an svg, not {path.name!r}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    title = str(values.get("title", path.stem))
    return Picture("diagnosis", title, str(values.get("text", title)), data, kind)
