"""A diagnosis as a JSON file and its pictures, in the form that `reader` reads."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfode_adv import files
from tfode_adv.analysis.gradients import COLUMNS
from tfode_adv.analysis.indicators import GROUPS
from tfode_adv.analysis.verdict import CHANGES, GRADIENTS
from tfode_adv.diagnosis.detection import SCORES, Detection, Evasion
from tfode_adv.diagnosis.figures import pictures
from tfode_adv.diagnosis.procedure import AtTolerance
from tfode_adv.diagnosis.reader import NAME, keep_other
from tfode_adv.rendering.charts import Picture
from tfode_adv.rendering.rates import Rate
from tfode_adv.rendering.tables import Table

# The graver verdict first: what a run is called, whatever its other tolerances.
GRAVITY = ("masked", "not robust", "inconclusive", "credible")


def write(
    folder: files.PathLike,
    found: Sequence[AtTolerance],
    settings: dict[str, Any],
    steps: int,
    model: str,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes the document and its pictures.

    Args:
        folder: where they go.
        found: the diagnosis at each tolerance.
        settings: what it was made with, as shown: plain JSON values by name.
        steps: how many the published attack takes.
        model: SHA-256 of the model's file, or of its layers and weights.
        notes: what a reader should know of what was left out.

    Returns:
        The document as JSON has it: {"title", "model", "settings", "verdict", "indicators", "tolerances", "report"};
        `report` is what a page shows, the rest is for other programs.
    """
    folder = pathlib.Path(folder)
    drawn = pictures(found, steps)
    for group in drawn.values():
        for picture in group:
            files.write_atomic(folder / f"{picture.name}.{picture.kind}", picture.data)
    document = plain(
        {
            "title": "Is this robustness real?",
            "model": model,
            "settings": settings,
            "verdict": overall(found),
            "indicators": [{"tol": at.tol, **one.to_json()} for at in found for one in at.indicators],
            "tolerances": [_values(at) for at in found],
            "report": [
                {
                    "title": section["title"],
                    "lines": section.get("lines", []),
                    "verdicts": section.get("verdicts", []),
                    "tables": [_table(table) for table in section.get("tables", [])],
                    "figures": [_figure(picture) for picture in drawn.get(section["name"], [])],
                }
                for section in _sections(found, settings, notes)
            ],
        }
    )
    keep_other(folder, document)
    files.write_json(folder / NAME, document)
    return document


def overall(found: Sequence[AtTolerance]) -> dict[str, Any]:
    """The gravest verdict of all tolerances; of several, the one whose robustness shrank most."""

    def weight(at: AtTolerance) -> tuple[int, int]:
        return GRAVITY.index(at.verdict.label), at.verdict.worst_case - at.verdict.published

    return {"tol": min(found, key=weight).tol, **min(found, key=weight).verdict.to_json()}


def summary(found: Sequence[AtTolerance]) -> Table:
    """Accuracy without an attack, under the published one and in the worst case, and what it means."""
    rows = [
        [
            at.tol,
            Rate(at.verdict.clean, at.verdict.images),
            Rate(at.verdict.published, at.verdict.images),
            Rate(at.verdict.worst_case, at.verdict.images),
            None if at.verdict.left is None else f"{100 * at.verdict.left:.0f} %",
            at.verdict.label,
        ]
        for at in found
    ]
    headers = ["τ", "accuracy", "published attack", "worst case", "left", "verdict"]
    note = "Shares of all images with 95 % intervals; left: of those that withstand the published attack, "
    note += f"{found[0].outcomes[0].name}, a dash where none does."
    return Table("How much robustness is left", headers, rows, note)


def answers(found: Sequence[AtTolerance]) -> Table:
    """The two questions at each tolerance: are the gradients hidden, and how much robustness is left?"""
    rows = [
        [
            at.tol,
            at.verdict.gradients,
            GRADIENTS[at.verdict.gradients],
            Rate(at.verdict.worst_case, at.verdict.images),
            at.verdict.set_by,
        ]
        for at in found
    ]
    headers = ["τ", "gradients", "which means that", "robustness left: at most", "most turned by"]
    note = "The share is of all images; another attack may leave less, none that was tried does."
    return Table("Two answers", headers, rows, note)


def remarks(found: Sequence[AtTolerance]) -> list[str]:
    """What weakens the numbers: solves that failed, planted examples that chance finds."""
    lines = []
    for at in found:
        where = "" if at.tol is None else f" at τ = {at.tol:g}"
        if at.failed:
            lines.append(f"{at.failed} of {len(at.correct)} clean solves failed{where}; they count as misclassified.")
        if at.by_chance:
            share = f"{100 * at.by_chance:.1f} %"
            lines.append(f"Random points find {share} of the planted examples{where}: so much of that test is luck.")
        if at.powered:
            power = ", ".join(f"{name} {turned}" for name, turned in at.power.items())
            lines.append(
                f"Of {at.powered} images that gradients turned{where}, attacks without gradients turn: {power}."
            )
    return lines


def _sections(found: Sequence[AtTolerance], settings: dict[str, Any], notes: Sequence[str]) -> list[dict[str, Any]]:
    shown = ", ".join(f"{name} {value}" for name, value in settings.items())
    sections = [
        {
            "name": "verdict",
            "title": "Is this robustness real?",
            "lines": [f"Settings: {shown}.", *notes, *remarks(found)],
            "verdicts": [at.verdict.sentence for at in found],
            "tables": [summary(found), _attribution(found), answers(found)],
        },
        {"name": "attacks", "title": "Attacks at equal ε", "tables": [_attacks(found)]},
        {
            "name": "indicators",
            "title": "Indicators of a failing attack",
            "lines": [f"{group}: a failure means that {meaning}." for group, meaning in GROUPS.items()],
            "tables": [_indicators(found)],
        },
        {"name": "gradients", "title": "Gradients and the loss around an image", "tables": [_audit(found)]},
    ]
    if any(at.travel for at in found):
        tables = [_travel(found), _travel_by_class(found)]
        sections.append({"name": "trajectories", "title": "Perturbations along t", "tables": tables})
    if any(at.detection for at in found):
        lines = [f"Score of {name}: {meaning}." for name, meaning in SCORES.items()]
        sections.append(
            {
                "name": "detection",
                "title": "Detection by disagreement between tolerances",
                "lines": lines,
                "tables": [_detection(found)],
            }
        )
    return sections


def _attribution(found: Sequence[AtTolerance]) -> Table:
    headers = ["what took the image", *(_tau(at) for at in found)]
    names = dict.fromkeys(name for at in found for name in at.verdict.attribution)
    rows = [
        [
            " with ".join(CHANGES[change] for change in name.split(" + ")),
            *(_percent(at.verdict.attribution.get(name, 0.0), at.verdict.images) for at in found),
        ]
        for name in names
    ]
    rows.append(
        [
            "together",
            *(_percent(at.verdict.published - at.verdict.worst_case, at.verdict.images) for at in found),
        ]
    )
    note = "Share of all images that withstand the published attack and not the worst case, credited to the "
    note += "smallest change to the published attack that turns them; changes of one size share an image."
    return Table("Which mechanism took the rest", headers, rows, note)


def _attacks(found: Sequence[AtTolerance]) -> Table:
    names = list(dict.fromkeys(outcome.name for at in found for outcome in at.outcomes))
    rows = []
    for name in names:
        outcomes = [next((one for one in at.outcomes if one.name == name), None) for at in found]
        rates = [one and Rate(int(one.turned.sum()), int(one.tried.sum())) for one in outcomes]
        rows.append([name, *_counted(rates)])
    worst = [Rate(at.verdict.clean - at.verdict.worst_case, at.verdict.clean) for at in found]
    rows.append(["worst case per image", *_counted(worst)])
    headers = ["attack", *(header for at in found for header in (_tau(at), "turned/tried"))]
    note = "Of the correctly classified images. Where fewer were tried than in other rows: attacks without gradients "
    note += "may be tried only on images that the published attack left, and examples are transferred of the first "
    note += "images that are classified correctly at the tolerance they were made at."
    return Table("Attack success", headers, rows, note)


def _counted(rates: Sequence[Rate | None]) -> list[Any]:
    """Each rate, then its counts as `turned/tried`; None for both where nothing was tried."""
    shown: list[Any] = []
    for rate in rates:
        shown += [rate, f"{rate.count}/{rate.total}"] if rate and rate.total else [None, None]
    return shown


def _indicators(found: Sequence[AtTolerance]) -> Table:
    rows = [
        [
            one.name,
            at.tol,
            one.value,
            one.threshold,
            "pass" if one.passed else "fail",
            one.group,
            None if one.total is None else Rate(one.count, one.total),
            one.explanation,
        ]
        for at in found
        for one in at.indicators
    ]
    # By indicator, so that a row's neighbours are the same indicator at other tolerances.
    order = list(dict.fromkeys(row[0] for row in rows))
    rows.sort(key=lambda row: order.index(row[0]))
    headers = ["indicator", "τ", "value", "passes up to", "result", "group", "of how many", "what it is"]
    note = "Points are images and as many iterates of PGD. A failure tells only where it is beyond chance: more are "
    note += "counted than chance makes of so many, at a significance of 5 % shared by all indicators that decide."
    return Table("Indicators", headers, rows, note)


def _audit(found: Sequence[AtTolerance]) -> Table:
    rows = [
        [at.tol, *row, *((at.audit.step_changes, at.audit.at_rest) if index == 0 else (None, None))]
        for at in found
        for index, row in enumerate(at.audit.rows())
    ]
    note = "Medians over images and iterates; signs, rising losses, and gradients zero or not finite as shares; what "
    note += (
        "needs a gradient of the first source, over those where it has one. Differences of the margin within [0, 1] "
    )
    note += (
        "along random sign vectors, at the scale that fits best of a hundredth to half of ε. Step changes: how often "
    )
    note += (
        "noise of 1e-3 changes the number of accepted steps. At rest: the share of images with a step whose error was "
    )
    note += "exactly zero, where the tolerance bounds neither the step nor the gradient's error."
    return Table("Gradient audit", ["τ", *COLUMNS, "step changes", "at rest"], rows, note)


def _travel(found: Sequence[AtTolerance]) -> Table:
    rows = []
    for at in found:
        for travel in at.travel:
            growth = travel.growth()
            ends = travel.mean()
            rows.append(
                [at.tol, travel.layer, ends.l2[0], ends.l2[-1], ends.cosine[-1], growth.amplification, growth.fastest]
            )
    headers = ["τ", "block", "L2 at the start", "L2 at the end", "cosine distance at the end", "grows by"]
    note = "Means over images (WIFS 2019, equation 5); growth: the geometric mean of L2 at the end over L2 at "
    note += "the start, and the t at which the perturbation grows fastest."
    return Table("Distance of clean and adversarial states", [*headers, "fastest at t ="], rows, note)


def _travel_by_class(found: Sequence[AtTolerance]) -> Table:
    classes = sorted({label for at in found for travel in at.travel for label in travel.by_class()})
    rows = []
    for at in found:
        for travel in at.travel:
            means = travel.by_class()
            ends = [means[label].l2[-1] if label in means else None for label in classes]
            rows.append([at.tol, travel.layer, *ends])
    headers = ["τ", "block", *(f"class {label}" for label in classes)]
    return Table("Mean L2 distance at the end, by class", headers, rows)


def _detection(found: Sequence[AtTolerance]) -> Table:
    rows = []
    for at in found:
        for one in at.detection.by_score() if at.detection else ():
            if isinstance(one, Evasion):
                rates = [None, None, None, Rate(one.escaped, one.images) if one.images else None]
            else:
                rates = [one.auc, one.false_positive_rate, one.true_positive_rate, None]
            rows.append([at.tol, one.score, one.attack, one.images, *rates])
    headers = ["τ", "score", "attack", "images", "AUC", "false positives", "true positives", "escapes"]
    note = "Thresholds flag 5 % of the clean validation images. Escapes: correctly classified images that the "
    note += "attack that knows the detector turned without being flagged."
    return Table("Detectors", headers, rows, note)


def _values(at: AtTolerance) -> dict[str, Any]:
    """All that was measured at one tolerance, less the images."""
    return {
        "tol": at.tol,
        "verdict": at.verdict.to_json(),
        "meaning": at.verdict.meaning,
        "accepted_steps": at.accepted_steps,
        "failed_solves": at.failed,
        "strongest_gradient": at.strongest,
        "planted_found_by_chance": at.by_chance,
        "gradient_free_power": {"found": at.power, "tried": at.powered},
        "attacks": [
            {
                "name": outcome.name,
                "changes": sorted(outcome.changes),
                "tried": int(outcome.tried.sum()),
                "turned": int(outcome.turned.sum()),
                "queries": at.queries.get(outcome.name),
            }
            for outcome in at.outcomes
        ],
        "gradient_audit": [dict(zip(COLUMNS, row, strict=True)) for row in at.audit.rows()],
        "step_changes": at.audit.step_changes,
        "at_rest": at.audit.at_rest,
        "trajectories": [
            {
                "layer": one.layer,
                "times": one.times,
                **vars(one.mean()),
                "growth": vars(one.growth()),
                "classes": {label: vars(means) for label, means in one.by_class().items()},
            }
            for one in at.travel
        ],
        "detection": [_shown(one) for one in at.detection.by_score()] if at.detection else [],
    }


def _shown(one: Detection | Evasion) -> dict[str, Any]:
    """What the document says of a detector and an attack: all but the curve."""
    return {name: value for name, value in vars(one).items() if name != "curve"}


def plain(value: Any) -> Any:
    """NumPy arrays and numbers as JSON's; a number that is not finite as None."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _table(table: Table) -> dict[str, Any]:
    rows = [[one.as_dict() if isinstance(one, Rate) else one for one in row] for row in table.rows]
    return {"title": table.title, "headers": list(table.headers), "rows": rows, "note": table.note}


def _figure(picture: Picture) -> dict[str, str]:
    return {"file": f"{picture.name}.{picture.kind}", "title": picture.title, "text": picture.text}


def _tau(at: AtTolerance) -> str:
    return "share" if at.tol is None else f"τ = {at.tol:g}"


def _percent(images: float, total: int) -> str:
    return f"{100 * images / total:.1f} %" if total else "–"
