"""A report written into a folder: the page, Markdown, LaTeX, CSV and JSON."""

import pathlib
import re

from tfode_adv import files
from tfode_adv.errors import RunError
from tfode_adv.rendering import page
from tfode_adv.rendering.charts import Picture, file_names
from tfode_adv.rendering.document import Card, Report
from tfode_adv.rendering.tables import Table, markdown

PAGE, MARKDOWN, LATEX, JSON = "index.html", "report.md", "tables.tex", "results.json"


def write(report: Report, folder: files.PathLike, overwrite: bool = False) -> pathlib.Path:
    """Writes a report into a folder and returns the path of its page.

    Files: index.html (everything), report.md with figures/, tables.tex, table-<k>.csv (or table-<k>-<name>.csv),
    results.json. An earlier report in that folder is replaced; of other files there, none is deleted.

    Raises:
        RunError: if the folder holds anything but a report and `overwrite` is False, or cannot be written.
    """
    folder = pathlib.Path(folder)
    if not overwrite:
        check_own(folder, JSON, "report")
    contents = _contents(report)
    stale = _written(folder) - set(contents)
    files.write_json(folder / JSON, {**report.data, "files": sorted(contents)})
    for name in stale:
        (folder / name).unlink(missing_ok=True)
    for name, data in contents.items():
        files.write_atomic(folder / name, data)
    return folder / PAGE


def check_own(folder: pathlib.Path, mark: str, noun: str) -> None:
    """Raises RunError for a folder that holds something, but not the file `mark` that each `noun` has."""
    foreign = folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))
    if foreign and not (folder / mark).is_file():
        raise RunError(f"{str(folder)!r} exists and is no {noun}; --overwrite writes into it all the same")


def _contents(report: Report) -> dict[str, bytes | str]:
    """Every file of a report but its JSON, by its path in the folder; the page, which has it all, last."""
    pictures = [picture for section in report.sections for picture in section.pictures]
    shown = [one for section in report.sections for one in section.galleries]
    pictures += [picture for one in shown for card in one.cards for picture in card.pictures]
    names = dict(zip(map(id, pictures), file_names(pictures), strict=True))
    return {
        **{_csv_name(number, table): table.to_csv() for number, table in enumerate(report.tables, start=1)},
        LATEX: "\n".join(table.to_latex() for table in report.tables),
        **{f"figures/{names[id(picture)]}": picture.data for picture in pictures},
        MARKDOWN: _markdown(report, names),
        PAGE: page.render(report),
    }


def _csv_name(number: int, table: Table) -> str:
    return f"table-{number}-{table.name}.csv" if table.name else f"table-{number}.csv"


def _written(folder: pathlib.Path) -> set[str]:
    """The tables and figures that an earlier report in the folder says it wrote there."""
    try:
        listed = files.read_json(folder / JSON)["files"]
        return {name for name in listed if re.fullmatch(r"table-\d+(-[\w-]+)?\.csv|figures/[^/]+", name)}
    except (RunError, KeyError, TypeError):
        return set()


def _markdown(report: Report, names: dict[int, str]) -> str:
    parts = [f"# {markdown(report.title)}", *map(markdown, report.lead)]
    parts.append("\n".join(f"- {markdown(line)}" for line in report.headlines))
    for section in report.sections:
        parts += [f"## {markdown(section.title)}", *map(markdown, section.lines)]
        parts += [f"> {markdown(verdict)}" for verdict in section.verdicts]
        parts += [table.to_markdown().rstrip() for table in section.tables]
        parts += [f"{_link(picture, names)}\n\n{markdown(picture.title)}" for picture in section.pictures]
        for shown in section.galleries:
            parts.append(f"**{markdown(shown.title)}**")
            parts += [_card(card, names) for card in shown.cards]
        parts += ["    " + command.replace("\n", "\n    ") for command in section.commands]
        for group in section.settings:
            rows = [f"- {markdown(name)}: {markdown(value)}" for name, value in group.rows]
            parts.append("\n".join([f"**{markdown(group.title)}**", "", *rows]))
    return "\n\n".join(parts) + "\n"


def _card(card: Card, names: dict[int, str]) -> str:
    links = " ".join(_link(picture, names) for picture in card.pictures)
    turned = "turned; " if card.turned else ""
    return f"{links}\n\n{turned}{markdown(card.text)}; change ×{card.factor}"


def _link(picture: Picture, names: dict[int, str]) -> str:
    return f"![{markdown(picture.text)}](figures/{names[id(picture)]})"
