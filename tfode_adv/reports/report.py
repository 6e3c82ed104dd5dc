"""One report from several run folders."""

import functools
import json
from collections.abc import Iterable, Sequence
from typing import Any

from tfode_adv import files
from tfode_adv.diagnosis import reader
from tfode_adv.evaluation import results
from tfode_adv.rendering.document import Report, Section, Settings
from tfode_adv.reports import figures, gallery, overview
from tfode_adv.run_folder import Run, versions

MOST_HEADLINES = 12
COMPARED = (
    "The same attack on the same model, following each gradient in turn. Where one line falls with the tolerance and "
    "another does not, the tolerance misleads the attack; it does not make the model robust."
)
CHARTS = {
    "Success against ε": figures.security_curves,
    "Success against the solver's tolerance": functools.partial(figures.success_against_tolerance, several=False),
    "Robust accuracy by solver": figures.robustness_by_solver,
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
    diagnoses = [reader.read(name, run) for name, run in found.runs.items()]
    notes = [*found.notes, *(note for one in diagnoses for note in one.notes)]
    notes += [] if tables else ["Nothing was evaluated yet."]
    # Each verdict stands next to the numbers it is about; what it rests on comes after the pictures.
    compared = figures.success_against_tolerance(found.results, several=True)
    sections = [Section("Success through each gradient", [COMPARED], pictures=compared)] if compared else []
    sections.append(Section("Results", notes, tables=tables))
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
