"""One report from several run folders, written as HTML, Markdown, LaTeX, CSV and JSON."""

import json
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from tfode_adv import files
from tfode_adv.errors import RunError
from tfode_adv.reports import diagnosis, figures, gallery, overview, page, results
from tfode_adv.reports.document import Report, Section, Settings
from tfode_adv.reports.plotting import Picture
from tfode_adv.reports.tables import Table, markdown
from tfode_adv.runs import Run, versions

PAGE, MARKDOWN, LATEX, JSON = "index.html", "report.md", "tables.tex", "results.json"
MOST_HEADLINES = 12
CHARTS = {
    "Success against ε": figures.security_curves,
    "Success against the solver's tolerance": figures.success_against_tolerance,
    "Accuracy against cost": figures.accuracy_against_cost,
}


def of_runs(paths: Iterable[files.PathLike], num_examples: int | None = None) -> Report:
    """The report on run folders; cells that several folders hold parts of are merged.

    Args:
        paths: run folders.
        num_examples: only the first so many images; all by default.

    Raises:
        RunError: if a folder is no run, or a file in it is missing or corrupt; the message names it.
    """
    found = results.collect(paths, num_examples)
    tables = overview.tables(found.results)
    diagnoses = [diagnosis.read(name, run) for name, run in found.runs.items()]
    notes = [*found.notes, *(note for one in diagnoses for note in one.notes)]
    notes += [] if tables else ["Nothing was evaluated yet."]
    # Each verdict stands next to the numbers it is about; what it rests on comes after the pictures.
    sections = [Section("Results", notes, tables=tables)]
    sections += [section for one in diagnoses for section in one.sections[:1]]
    for title, draw in CHARTS.items():
        pictures = draw(found.results)
        if pictures:
            sections.append(Section(title, pictures=pictures))
    galleries = gallery.galleries(found.results)
    if galleries:
        line = "Clean image, image under attack, and their difference, magnified around mid-grey."
        sections.append(Section("Images", [line], galleries=galleries))
    sections += [section for one in diagnoses for section in one.sections[1:]]
    sections.append(
        Section("Settings and versions", settings=[_settings(name, run) for name, run in found.runs.items()])
    )
    names = ", ".join(found.runs)
    return Report(
        title=f"Robustness of {names}",
        lead=[_lead(found.results, all(one.sections for one in diagnoses))] if found.results else [],
        headlines=overview.headlines(found.results)[:MOST_HEADLINES],
        sections=sections,
        data={
            "runs": {name: {"path": str(run.path), "config": run.config} for name, run in found.runs.items()},
            "results": [results.as_dict(result) for result in found.results],
            "diagnoses": {
                name: one.document for name, one in zip(found.runs, diagnoses, strict=True) if one.document is not None
            },
            "notes": notes,
            "versions": versions(),
        },
    )


def write(report: Report, folder: files.PathLike, overwrite: bool = False) -> pathlib.Path:
    """Writes a report into a folder and returns the path of its page.

    Files: index.html (everything), report.md with figures/, tables.tex, table-<k>.csv (or table-<k>-<name>.csv),
    results.json. An earlier report in that folder is replaced; of other files there, none is deleted.

    Raises:
        RunError: if the folder holds anything but a report and `overwrite` is False, or cannot be written.
    """
    folder = pathlib.Path(folder)
    foreign = folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))
    if foreign and not overwrite and not (folder / JSON).is_file():
        raise RunError(f"{str(folder)!r} exists and is no report; --overwrite writes into it all the same")
    contents = _contents(report)
    stale = _written(folder) - set(contents)
    files.write_json(folder / JSON, {**report.data, "files": sorted(contents)})
    for name in stale:
        (folder / name).unlink(missing_ok=True)
    for name, data in contents.items():
        files.write_atomic(folder / name, data)
    return folder / PAGE


def _contents(report: Report) -> dict[str, bytes | str]:
    """Every file of a report but its JSON, by its path in the folder; the page, which has it all, last."""
    pictures = [picture for section in report.sections for picture in section.pictures]
    shown = [one for section in report.sections for one in section.galleries]
    pictures += [picture for one in shown for card in one.cards for picture in card.pictures]
    names = dict(zip(map(id, pictures), figures.file_names(pictures), strict=True))
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


def _lead(found: Sequence[results.Result], diagnosed: bool) -> str:
    attacks = [result for result in found if result.configuration.attack != "none"]
    datasets = sorted({f"{r.configuration.dataset} ({r.configuration.split})" for r in found})
    most = max(len(result.records) for result in found)
    text = f"{most} images of {', '.join(datasets)}; {len(attacks)} attack configurations."
    doubt = " An attack that fails proves little: bin/diagnose tells whether this robustness is real."
    return text if diagnosed else text + doubt


def _settings(name: str, run: Run) -> Settings:
    rows = [("folder", str(run.path)), ("git revision", run.config.get("git_revision"))]
    for part in ("model", "dataset", "versions", "flags"):
        values = run.config.get(part) or {}
        if isinstance(values, dict):
            rows += [(f"{part}: {key}", value) for key, value in values.items()]
        else:
            rows.append((part, values))
    return Settings(name, [(key, _plain(value)) for key, value in rows if value not in (None, "", [], {})])


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


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


def _card(card: gallery.Card, names: dict[int, str]) -> str:
    links = " ".join(_link(picture, names) for picture in card.pictures)
    turned = "turned; " if card.turned else ""
    return f"{links}\n\n{turned}{markdown(card.text)}; change ×{card.factor}"


def _link(picture: Picture, names: dict[int, str]) -> str:
    return f"![{markdown(picture.text)}](figures/{names[id(picture)]})"
