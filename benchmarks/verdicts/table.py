"""The confusion matrix, each model's line, and the thresholds chosen on one half and tried on the other."""

from collections.abc import Mapping

LABELS = ("masked", "inconclusive", "credible", "not robust")
COMMAND = "python -m benchmarks.verdicts"
# What decides "masked", by the product's own threshold.
THRESHOLDS = {
    "unavailable gradients": 0.05,
    "misleading gradients": 0.5,
    "shattered gradients": 0.5,
    "hidden share": 0.2,
}


def text(done: Mapping[str, dict]) -> str:
    """The page, in Markdown."""
    parts = ["# What a diagnosis calls planted models", f"Made by `{COMMAND}`: {len(done)} models, 40 images each."]
    parts += [_matrix(done), _bounds(done), _thresholds(done), _lines(done)]
    return "\n\n".join(parts) + "\n"


def _matrix(done) -> str:
    rows = ["| truth | " + " | ".join(LABELS) + " |", "| --- |" + " --- |" * len(LABELS)]
    for truth in ("masked", "honest"):
        counts = [sum((one["truth"], one["label"]) == (truth, label) for one in done.values()) for label in LABELS]
        rows.append(f"| {truth} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(rows)


def _bounds(done) -> str:
    lines = []
    for truth in ("honest", "masked"):
        ours = [one for one in done.values() if one["truth"] == truth]
        near = sum(one["worst_case"] <= one["independent"][1] + 1 for one in ours)
        lines.append(f"{truth}: {near} of {len(ours)}")
    return "Worst case at most one image of 40 above the independent attack's bound: " + "; ".join(lines) + "."


def measure(one: Mapping, name: str) -> float:
    """A model's measurement by a threshold's name."""
    if name == "hidden share":
        return one["hidden"] / max(1, one["published"])
    return one["indicators"].get(name) or 0.0


def chosen(half: Mapping[str, dict], name: str) -> float:
    """The threshold of one measurement that errs least on these models: the middle of the widest gap that does."""
    values = sorted({0.0, 1.0, *(measure(one, name) for one in half.values())})
    gaps = [((low + high) / 2, high - low) for low, high in zip(values, values[1:], strict=False)]
    # An honest model beyond it is an error; a masked one below it may be caught by another measurement.
    honest = [measure(one, name) for one in half.values() if one["truth"] == "honest"]
    hiding = [measure(one, name) for one in half.values() if one["truth"] == "masked"]
    return min(gaps, key=lambda gap: (sum(h > gap[0] for h in honest), sum(m <= gap[0] for m in hiding), -gap[1]))[0]


def _errors(half, thresholds) -> str:
    called = {name: any(measure(one, key) > limit for key, limit in thresholds.items()) for name, one in half.items()}
    false = [name for name, one in half.items() if one["truth"] == "honest" and called[name]]
    missed = [name for name, one in half.items() if one["truth"] == "masked" and not called[name]]
    return f"{len(false)} honest called masked, {len(missed)} masked missed{': ' + ', '.join(missed) if missed else ''}"


def _thresholds(done) -> str:
    names = list(done)
    halves = [{name: done[name] for name in names[start::2]} for start in (0, 1)]
    limits = [{name: chosen(half, name) for name in THRESHOLDS} for half in halves]
    rows = ["| measurement | ours | chosen on the first half | chosen on the second |", "| --- | --- | --- | --- |"]
    rows += [
        f"| {name} | {ours:g} | {limits[0][name]:.2f} | {limits[1][name]:.2f} |" for name, ours in THRESHOLDS.items()
    ]
    rows.append("")
    rows.append(f"Chosen on the first, tried on the second: {_errors(halves[1], limits[0])}.")
    rows.append(f"Chosen on the second, tried on the first: {_errors(halves[0], limits[1])}.")
    rows.append(f"Ours on all: {_errors(done, THRESHOLDS)} (measurements alone, without the test for chance).")
    return "\n".join(rows)


def _lines(done) -> str:
    head = ["model", "truth", "attack", "verdict", "gradients", "clean", "published", "worst case", "independent", "s"]
    rows = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for name, one in done.items():
        cells = [name, one["truth"], f"{one['norm']} {one['eps']:g}", one["label"], one["gradients"], one["clean"]]
        cells += [one["published"], one["worst_case"], one["independent"][1], f"{one['seconds'][0]:.0f}"]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)
