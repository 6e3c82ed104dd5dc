"""Is this robustness real? All measurements at all tolerances, and a verdict at each."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfode_adv.analysis import attack_table, indicators, measurements, trajectories
from tfode_adv.analysis.attack_table import BACKPROP, OWN, Protocol, Row
from tfode_adv.analysis.indicators import Indicator
from tfode_adv.analysis.measurements import Bench, Images, Piece, Tolerance
from tfode_adv.analysis.probe import Probe
from tfode_adv.analysis.stages import Stages
from tfode_adv.analysis.verdict import Outcome, Verdict, judge, worst_case
from tfode_adv.errors import RunError
from tfode_adv.solvers import is_adaptive

# Once a costly attack alone turns more than this share of a sample, it is run on all images.
MASKED_SHARE = 0.05
BLACK_BOX = ("gradient-free", "transfer")


@dataclasses.dataclass
class AtTolerance:
    """Everything measured at one tolerance; `tol` is None for a model that no tolerance changes.

    Attributes:
        correct: [N] bool, without an attack; accepted_steps: mean of an image; failed: solves that failed.
        rows, outcomes: the attack table, the published attack first; outcomes end with transfers.
        queries, adversarial: by row, mean number of queries and images [N, ...].
        strongest: the gradient source whose PGD turned most images.
        audit, surface, detection: see `measurements`; by_chance: of the planted test.
    """

    tol: Tolerance
    correct: np.ndarray
    accepted_steps: float | None
    failed: int
    rows: list[Row]
    outcomes: list[Outcome] = dataclasses.field(default_factory=list)
    queries: dict[str, float] = dataclasses.field(default_factory=dict)
    adversarial: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    strongest: str = OWN
    audit: dict[str, Any] = dataclasses.field(default_factory=dict)
    by_chance: float = 0.0
    surface: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    travel: list[trajectories.Travel] = dataclasses.field(default_factory=list)
    detection: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    indicators: list[Indicator] = dataclasses.field(default_factory=list)
    verdict: Verdict | None = None

    @property
    def sources(self) -> list[str]:
        """The gradient sources of the table, the published one first."""
        return list(dict.fromkeys(row.source for row in self.rows if row.source != "none"))

    def pgd(self, source: str, steps: int) -> Outcome:
        """What plain PGD of so many steps through a source did."""
        for row, outcome in zip(self.rows, self.outcomes, strict=False):
            plain = row.kind == "pgd" and "restarts" not in row.options
            if plain and row.source == source and row.options["steps"] == steps:
                return outcome
        raise KeyError(f"no PGD-{steps} through {source}")

    def turned(self, keep: Callable[[Outcome], bool]) -> np.ndarray:
        """[N] bool: turned by any of the outcomes to keep."""
        kept = [outcome.turned for outcome in self.outcomes if keep(outcome)]
        return np.any([np.zeros(len(self.correct), bool), *kept], axis=0)


def pieces(probe: Probe, protocol: Protocol, budget: str, tols: Sequence[float]) -> int:
    """At most how many pieces `run` is made of, for a progress bar."""
    tolerances = tolerances_of(probe, tols)
    rows = sum(len(attack_table.rows_of(probe, protocol, budget, tol)) for tol in tolerances)
    return rows + len(tolerances) * (15 if probe.blocks else 9)


def tolerances_of(probe: Probe, tols: Sequence[float]) -> list[Tolerance]:
    """The tolerances to look at, ascending; [None] for a model that no tolerance changes."""
    return sorted(set(tols)) if any(is_adaptive(block.solver) for block in probe.blocks) else [None]


def run(
    probe: Probe,
    images: Images,
    protocol: Protocol,
    *,
    budget: str,
    tols: Sequence[float],
    stages: Stages,
    step: Callable[[str], None] = lambda words: None,
) -> list[AtTolerance]:
    """Diagnoses a model.

    Args:
        probe: the model; images: what it is looked at with; protocol: the published attack.
        budget: a key of `attack_table.BUDGETS`.
        tols: tolerances; ignored for a model without ODE blocks.
        stages: where finished pieces are kept and found again.
        step: called with a few words before each piece of work.

    Returns:
        One `AtTolerance` for each tolerance at which some image is classified correctly, ascending.

    Raises:
        RunError: if there is no such tolerance.
    """
    bench = Bench(probe, images, protocol, budget, tolerances_of(probe, tols), stages, step)
    clean = {tol: measurements.clean(bench, tol) for tol in bench.tols}
    bench.tols = [tol for tol, (_, arrays) in clean.items() if arrays["correct"].any()]
    if not bench.tols:
        raise RunError(f"none of {len(images.y)} images is classified correctly: nothing to attack")
    found = [_attacked(bench, tol, clean[tol]) for tol in bench.tols]
    # Only now is there something to transfer from every tolerance.
    traces = {at.tol: measurements.trace(bench, at.tol, bench.own, at.correct)[1] for at in found}
    examples = {tol: (trace["made"], trace["x_last"]) for tol, trace in traces.items()}
    for at in found:
        if len(found) > 1:
            values, arrays = measurements.transfer(bench, at.tol, at.correct, examples)
            at.outcomes += [
                Outcome(name, frozenset({"transfer"}), tried, turned)
                for name, tried, turned in zip(values["names"], arrays["tried"], arrays["turned"], strict=True)
            ]
        _look_closer(bench, at, found)
        setting = "" if at.tol is None else f"at τ = {at.tol:g}"
        at.verdict = judge(at.correct, at.outcomes, at.indicators, setting)
    return found


def _attacked(bench: Bench, tol: Tolerance, clean: Piece) -> AtTolerance:
    values, arrays = clean
    rows = attack_table.rows_of(bench.probe, bench.protocol, bench.budget, tol)
    at = AtTolerance(tol, arrays["correct"], values["steps"], values["failed"], rows)
    for index, row in enumerate(rows):
        tried = attack_table.costly_images(at.correct, at.outcomes[0], bench.budget) if row.costly else at.correct
        _attack(bench, at, index, tried)
        left = at.correct & ~worst_case(at.outcomes[:-1])
        if row.costly and (at.outcomes[-1].turned & left).sum() > MASKED_SHARE * max(1, (tried & left).sum()):
            # What wins on a sample must be known of all images, or the worst case would be too good.
            _attack(bench, at, index, left & ~tried)
    # In a tie, the gradient of what the model computes.
    turned = {source: at.pgd(source, bench.protocol.steps).turned.sum() for source in at.sources}
    at.strongest = max(turned, key=lambda source: (turned[source], source == bench.own))
    return at


def _attack(bench: Bench, at: AtTolerance, index: int, tried: np.ndarray) -> None:
    """Runs the row at `index` on the images `tried`, and joins what it finds with what it found on others."""
    row = at.rows[index]
    values, arrays = measurements.attack(bench, at.tol, row, tried)
    turned, x_adv = arrays["turned"], arrays["x_adv"]
    if index < len(at.outcomes):
        before = at.outcomes.pop(index)
        x_adv = np.where(tried.reshape([-1] + [1] * (x_adv.ndim - 1)), x_adv, at.adversarial[row.name])
        tried, turned = tried | before.tried, turned | before.turned
    at.outcomes.insert(index, Outcome(row.name, row.changes, tried, turned))
    at.queries.setdefault(row.name, values["queries"])
    at.adversarial[row.name] = x_adv


def _look_closer(bench: Bench, at: AtTolerance, everywhere: Sequence[AtTolerance]) -> None:
    values, arrays = measurements.audit(bench, at.tol, at.correct)
    at.audit = {**values, **arrays}
    at.indicators = _indicators(bench, at)
    # The same image at every tolerance, one that all of them classify correctly.
    always = np.all([other.correct for other in everywhere], axis=0)
    drawn = list(dict.fromkeys((at.sources[0], bench.own)))
    _, at.surface = measurements.loss_surface(bench, at.tol, drawn, int(np.argmax(always)))
    if not bench.probe.blocks:
        return
    worst, x_adv = _worst_images(bench, at)
    if worst.any():
        at.travel = measurements.travel(bench, at.tol, worst, x_adv)
    references = tuple(tol for tol in (bench.tols[0], bench.tols[-1]) if tol != at.tol)
    # The stock solver shares its step among a batch, and a tolerance too.
    stock = any(block.solver == "tfp" for block in bench.probe.blocks)
    if references and not stock and len(bench.images.validation):
        at.detection = _detect(bench, at, references)


def _indicators(bench: Bench, at: AtTolerance) -> list[Indicator]:
    """On the model's gradients, on the strongest attack, on the table, and on the published attack.

    Whether the model hides its gradient is asked of its own exact one: that of a surrogate (fixed steps, a fine
    tolerance) is another function's, however well it attacks.
    """
    found = _indicators_of_gradient(at, bench.exact, "masking")
    if bench.own != bench.exact:
        # The longer attacks follow this one: where it misleads, they are weak.
        found += _indicators_of_gradient(at, bench.own, "evaluation")
    found += _indicators_of_attack(bench, at, at.strongest, "evaluation")
    found += _indicators_of_table(bench, at)
    published = at.sources[0]
    if published not in (bench.exact, bench.own):
        found += _indicators_of_gradient(at, published, "published")
    if published != at.strongest:
        found += _indicators_of_attack(bench, at, published, "published")
    return found


def _indicators_of_gradient(at: AtTolerance, source: str, group: str) -> list[Indicator]:
    """Is a source's gradient there, the same each time, and that of the loss?"""
    found = [
        indicators.unavailable_gradients(at.audit[f"gradient/{source}"], group),
        indicators.irreproducible_gradients(at.audit[f"reproduced/{source}"], group),
        indicators.misleading_gradients(at.audit[f"difference/{source}"], group),
    ]
    return _named_after(source, found)


def _indicators_of_attack(bench: Bench, at: AtTolerance, source: str, group: str) -> list[Indicator]:
    """Does PGD along a source's gradient do what an attack should?"""
    _, path = measurements.trace(bench, at.tol, source, at.correct)
    _, swept = measurements.sweep(bench, at.tol, source, at.correct)
    chance, plant = measurements.plant(bench, at.tol, source, at.correct)
    at.by_chance = chance["by_chance"]
    found = [
        indicators.loss_not_raised(path["losses"], group),
        indicators.incomplete_optimisation(path["losses"], path["turned"].any(axis=0), group),
        indicators.silent_success(path["turned"], group),
        indicators.loss_falls_with_eps(swept["losses"], group),
        indicators.unbounded_attack_fails(swept["unbounded"], group),
        indicators.planted_missed(plant["found"][plant["planted"]], group),
    ]
    return _named_after(source, found)


def _named_after(source: str, found: list[Indicator]) -> list[Indicator]:
    suffix = "" if source == OWN else f" ({source})"
    return [dataclasses.replace(one, name=one.name + suffix) for one in found]


def _indicators_of_table(bench: Bench, at: AtTolerance) -> list[Indicator]:
    correct, steps = at.correct, bench.protocol.steps
    white_box = at.turned(lambda outcome: not {"gradient-free", "transfer"} & outcome.changes)
    free, transfer = (at.turned(lambda outcome, name=name: name in outcome.changes) for name in BLACK_BOX)
    asked, sent = (_tried(at, name) for name in BLACK_BOX)
    published = at.outcomes[0].turned
    sample = attack_table.costly_images(correct, at.outcomes[0], bench.budget)
    # A sample of the images that the published attack left stands for all of them, and for no others.
    weight = 1.0
    if not (sample & published).any():
        weight = float((correct & ~published).sum() / max(1, correct.sum()))
    # What was tried beyond the sample is what other attacks left: no fair draw, but nothing is left to guess.
    all_tried = not (correct & ~white_box & ~asked).any()
    chosen, share = (correct, 1.0) if all_tried else (asked, weight)
    beaten = indicators.gradient_free_wins(free[sample], published[sample], "published", weight=weight)
    counts = steps, 2 * steps, attack_table.longest(bench.protocol, bench.budget)
    short, double, longest = (at.pgd(bench.own, count).turned[correct] for count in counts)
    found = [
        indicators.unstable_loss(at.audit["noise_change"]),
        indicators.gradient_free_wins(free[chosen], white_box[chosen], weight=share),
        dataclasses.replace(beaten, name="gradient-free beats the published attack"),
        indicators.more_steps_keep_helping(double, longest),
        indicators.more_steps_do_not_help(short, longest),
    ]
    if len(bench.tols) > 1:
        found.append(indicators.black_box_wins(transfer[sent], white_box[sent]))
    return found


def _tried(at: AtTolerance, change: str) -> np.ndarray:
    """[N] bool: images that any attack with this change was run on."""
    kept = [outcome.tried for outcome in at.outcomes if change in outcome.changes]
    return np.any([np.zeros(len(at.correct), bool), *kept], axis=0)


def _worst_images(bench: Bench, at: AtTolerance) -> tuple[np.ndarray, np.ndarray]:
    """Which images a row turned [N], and for each of them the example of the first row that did."""
    images, worst = bench.images.x.copy(), np.zeros(len(at.correct), bool)
    for row, outcome in reversed(list(zip(at.rows, at.outcomes, strict=False))):
        images[outcome.turned] = at.adversarial[row.name][outcome.turned]
        worst |= outcome.turned
    return worst, images


def _detect(bench: Bench, at: AtTolerance, references: tuple[float, ...]) -> list[dict[str, Any]]:
    shown = {at.outcomes[0].name, at.pgd(BACKPROP, 2 * bench.protocol.steps).name, "SPSA"}
    attacked = {
        row.name: at.adversarial[row.name][outcome.turned]
        for row, outcome in zip(at.rows, at.outcomes, strict=False)
        if row.name in shown
    }
    values, arrays = measurements.detect(bench, at.tol, references, at.correct, attacked)
    return [
        {**row, "fpr": arrays.get(f"{index}/fpr"), "tpr": arrays.get(f"{index}/tpr")}
        for index, row in enumerate(values["rows"])
    ]
