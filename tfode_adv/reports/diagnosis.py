"""What `bin/diagnose` left in a run folder, as sections of a report.

`RUN/diagnosis/diagnosis.json` holds, beside whatever else its reader wants, what a page shows of it:

    {"report": [{"title": "...", "lines": ["..."], "verdicts": ["..."],
                 "tables": [{"title": "...", "headers": ["..."], "rows": [[...]], "note": "..."}],
                 "figures": [{"file": "surface.png", "title": "...", "text": "..."}]}]}

A table's value is text, a number, null, or a rate `{"count": 3, "total": 10}`; "pass" and "fail" are shown as
such. A figure's file lies beside the JSON, a PNG or an SVG.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from tfode_adv import files
from tfode_adv.errors import RunError
from tfode_adv.reports.document import Section
from tfode_adv.reports.plotting import Picture
from tfode_adv.reports.statistics import Rate
from tfode_adv.reports.tables import Table

FOLDER, NAME = "diagnosis", "diagnosis.json"


def sections(name: str, run: files.PathLike) -> list[Section]:
    """The diagnosis of a run folder, each section under the run's name; none where there is none.

    Raises:
        RunError: if the file is corrupt or a figure is missing; the message names the file.
    """
    path = pathlib.Path(run) / FOLDER / NAME
    if not path.exists():
        return []
    values = files.read_json(path)
    try:
        return [_section(name, part, path.parent) for part in values["report"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{str(path)!r} is corrupt: not a diagnosis ({error!r})") from error


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
