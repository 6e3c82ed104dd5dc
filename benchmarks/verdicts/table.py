"""The confusion matrix, each model's line, and the thresholds chosen on one half and tried on the other."""

import collections
from collections.abc import Mapping, Sequence

import numpy as np

LABELS = ("masked", "inconclusive", "credible", "not robust")
COMMAND = "python -m benchmarks.verdicts"
SPLITS = 100
# What stands between them in the page is made anew.
BEGIN, END = "<!-- made by the command -->", "<!-- written by hand -->"
# What decides "masked", by the product's own threshold.
THRESHOLDS = {
    "unavailable gradients": 0.05,
    "misleading gradients": 0.5,
    "shattered gradients": 0.3,
    "shattered: averaging finds more": 0.05,
    "unavailable: derivatives vanish": 0.1,
    "unavailable: loss saturated": 0.25,
    "loss falls as eps grows": 0.1,
    "hidden share": 0.2,
}


def put_into(page: str, done: Mapping[str, dict], planted: Sequence[str], held_out: Sequence[str]) -> str:
    """The page, its part between the two marks made anew: the models `done` of those that are `planted`.

    Args:
        held_out: those of them that no threshold was chosen on.
    """
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    kept_apart = {name: one for name, one in done.items() if name in held_out}
    others = {name: one for name, one in done.items() if name not in held_out}
    parts = [_head(done, planted)]
    if kept_apart:
        parts += ["**Held out:** planted when every threshold stood, by who had not read them."]
        parts += [_matrix(kept_apart), _bounds(kept_apart), "**The others:**"]
    parts += [_matrix(others), _bounds(others), _thresholds(others), _lines(done)]
    return "\n\n".join([before + BEGIN, *parts, END + after])


def _head(done, planted) -> str:
    missing = [name for name in planted if name not in done]
    left_out = f" **Not run, and in no count below:** {', '.join(f'`{name}`' for name in missing)}." if missing else ""
    commits = collections.Counter((one.get("commit") or "unknown")[:9] for one in done.values())
    at = ", ".join(f"{count} at {commit}" for commit, count in commits.items())
    return f"Made by `{COMMAND}`: {len(done)} of {len(planted)} models, 40 images each; {at}.{left_out}"


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


def chosen(half: Mapping[str, dict]) -> dict[str, float]:
    """A threshold for each measurement, from models whose truth is known.

    A masked model need show in one measurement only, so each is put down to the one in which it stands furthest above
    all honest models. A threshold is the middle between the largest honest value and the smallest of the masked ones
    put down to it; a measurement that no model is put down to gets none, infinity.
    """
    honest = [one for one in half.values() if one["truth"] == "honest"]
    top = {name: max((measure(one, name) for one in honest), default=0.0) for name in THRESHOLDS}
    least = dict.fromkeys(THRESHOLDS, np.inf)
    for one in half.values():
        clearest = max(THRESHOLDS, key=lambda name: measure(one, name) - top[name])
        value = measure(one, clearest)
        if one["truth"] == "masked" and value > top[clearest]:
            least[clearest] = min(least[clearest], value)
    return {name: (top[name] + least[name]) / 2 for name in THRESHOLDS}


def halves(done: Mapping[str, dict], seed: int) -> tuple[dict, dict]:
    """The models in two halves by chance, with as many masked and honest ones in each."""
    rng, first = np.random.default_rng(seed), set()
    for truth in ("masked", "honest"):
        names = [name for name, one in done.items() if one["truth"] == truth]
        first |= {names[index] for index in rng.permutation(len(names))[: (len(names) + seed % 2) // 2]}
    return {name: done[name] for name in done if name in first}, {
        name: done[name] for name in done if name not in first
    }


def errors(half: Mapping[str, dict], thresholds: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """The honest models that measurements alone call masked, and the masked ones that they miss."""
    called = {name: any(measure(one, key) > limit for key, limit in thresholds.items()) for name, one in half.items()}
    false = [name for name, one in half.items() if one["truth"] == "honest" and called[name]]
    missed = [name for name, one in half.items() if one["truth"] == "masked" and not called[name]]
    return false, missed


def _thresholds(done) -> str:
    limits, false, missed = [], [], []
    for seed in range(SPLITS):
        half, other = halves(done, seed)
        limits.append(chosen(half))
        wrong = errors(other, limits[-1])
        false, missed = [*false, *wrong[0]], [*missed, *wrong[1]]
    whole = chosen(done)
    rows = [
        "| measurement | ours | chosen on all | on one half: median | 10 to 90 % of splits |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, ours in THRESHOLDS.items():
        values = np.array([limit[name] for limit in limits])
        known = values[np.isfinite(values)]
        low, middle, high = np.quantile(known, (0.1, 0.5, 0.9)) if len(known) else (np.nan,) * 3
        rows.append(
            f"| {name} | {ours:g} | {_limit(whole[name])} | {_limit(middle)} | {_limit(low)} to {_limit(high)} |"
        )
    tried = sum(len(halves(done, seed)[1]) for seed in range(SPLITS))
    ours = errors(done, THRESHOLDS)
    return "\n".join(
        [
            *rows,
            "",
            f"Chosen on one half, tried on the other, {SPLITS} splits with both truths in both halves: of {tried} "
            f"models tried {len(false)} honest ones called masked{_often(false)} and {len(missed)} masked ones missed"
            f"{_often(missed)}. Each masked model is put down to the measurement that shows it best; the threshold is "
            "the middle between the largest honest value and the smallest of those put down to it, and a dash where "
            "there are none. What one model alone shows is missed where it is not in the half that is chosen on.",
            "",
            f"Ours on all: {len(ours[0])} honest called masked{_often(ours[0])}, {len(ours[1])} masked missed"
            f"{_often(ours[1])}. Measurements alone, without the tests for chance that a verdict adds.",
        ]
    )


def _limit(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "–"


def _often(names: list[str]) -> str:
    found = collections.Counter(names).most_common(4)
    return f" ({', '.join(f'{name} {count}' if count > 1 else name for name, count in found)})" if found else ""


def _lines(done) -> str:
    head = [
        "model",
        "truth",
        "attack",
        "verdict",
        "gradients",
        "clean",
        "published",
        "worst case",
        "independent",
        "processor s",
    ]
    rows = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for name, one in done.items():
        cells = [name, one["truth"], f"{one['norm']} {one['eps']:g}", one["label"], one["gradients"], one["clean"]]
        cells += [one["published"], one["worst_case"], one["independent"][1], f"{one['seconds'][1]:.0f}"]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)
