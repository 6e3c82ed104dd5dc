"""Is this robustness real? All measurements at all tolerances, and a verdict at each."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tfode_adv.analysis import indicators
from tfode_adv.analysis.indicators import Indicator
from tfode_adv.analysis.verdict import HIDING, Outcome, Verdict, judge, worst_case
from tfode_adv.diagnosis import attack_table, detours, measurements, trajectories
from tfode_adv.diagnosis.attack_table import BACKPROP, OWN, Protocol, Row
from tfode_adv.diagnosis.measurements import Bench, Images, Piece, Tolerance
from tfode_adv.diagnosis.probe import Probe
from tfode_adv.diagnosis.stages import Stages
from tfode_adv.errors import RunError
from tfode_adv.keras_internals import sublayers
from tfode_adv.models import RandomSolver
from tfode_adv.solvers import is_adaptive

# Once a costly attack alone turns more than this share of a sample, it is run on all images.
MASKED_SHARE = 0.05
BLACK_BOX = ("gradient-free", "transfer")
# Runs of a randomised model whose mean is attacked; two single gradients of it agree less than this by chance.
DRAWS = 8
RANDOM_COSINE = 0.5


@dataclasses.dataclass
class AtTolerance:
    """Everything measured at one tolerance; `tol` is None for a model that no tolerance changes.

    Attributes:
        correct: [N] bool, without an attack; accepted_steps: mean of an image; failed: solves that failed.
        rows, outcomes: the attack table, the published attack first; outcomes end with transfers.
        queries, adversarial: by row, mean number of queries and images [N, ...].
        strongest: the gradient source whose PGD turned most images.
        audit, surface, detection: see `measurements`; by_chance: of the planted test.
        power: by attack without gradients, how many it turns of the `powered` images tried that gradients turned.
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
    power: dict[str, int] = dataclasses.field(default_factory=dict)
    powered: int = 0
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
    return 1 + rows + len(tolerances) * (30 if probe.blocks else 24)


def tolerances_of(probe: Probe, tols: Sequence[float]) -> list[Tolerance]:
    """The tolerances to look at, ascending; [None] for a model that no tolerance changes."""
    if any(isinstance(layer, RandomSolver) for layer in _layers(probe.original)):
        return [None]
    return sorted(set(tols)) if any(is_adaptive(block.solver) for block in probe.blocks) else [None]


def _layers(model: Any) -> list[keras.layers.Layer]:
    return sublayers(model, include_self=True) if isinstance(model, keras.layers.Layer) else []


def run(
    probe: Probe,
    images: Images,
    protocol: Protocol,
    *,
    budget: str,
    tols: Sequence[float],
    stages: Stages,
    step: Callable[[str], None] = lambda words: None,
    twin: Any = None,
) -> list[AtTolerance]:
    """Diagnoses a model.

    Args:
        probe: the model; images: what it is looked at with; protocol: the published attack.
        budget: a key of `attack_table.BUDGETS`.
        tols: tolerances; ignored for a model without ODE blocks.
        stages: where finished pieces are kept and found again.
        step: called with a few words before each piece of work.
        twin: a model from the same images to as many logits, to differentiate in this one's place.

    Returns:
        One `AtTolerance` for each tolerance at which some image is classified correctly, ascending.

    Raises:
        RunError: if there is no such tolerance.
    """
    bench = Bench(probe, images, protocol, budget, tolerances_of(probe, tols), stages, step, twin)
    probe.draws = 1
    if measurements.randomness(bench)[0]["random"]:
        probe.draws = DRAWS
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
        at.verdict = judge(at.correct, at.outcomes, at.indicators, setting, _saturated(at), _behind(bench, at))
    return found


def _attacked(bench: Bench, tol: Tolerance, clean: Piece) -> AtTolerance:
    values, arrays = clean
    bench.probe.detours = detours.always(bench)
    rows = attack_table.rows_of(bench.probe, bench.protocol, bench.budget, tol)
    at = AtTolerance(tol, arrays["correct"], values["steps"], values["failed"], [])
    values, arrays = measurements.audit(bench, tol, at.correct)
    at.audit = {**values, **arrays}
    _run(bench, at, [row for row in rows if not row.follows])
    if _looks_hidden(bench, at):
        bench.probe.detours |= detours.when_hidden(bench, tol)
        rows = attack_table.rows_of(bench.probe, bench.protocol, bench.budget, tol)
        _run(bench, at, [row for row in rows if not row.follows and row not in at.rows])
    _run(bench, at, [row for row in rows if row.follows])
    # In a tie, the gradient of what the model computes.
    sources = attack_table.sources_of(bench.probe, bench.protocol, tol)
    turned = {source: at.pgd(source, bench.protocol.steps).turned.sum() for source in sources if source in at.sources}
    at.strongest = max(turned, key=lambda source: (turned[source], source == bench.own))
    free = [row for row in at.rows if row.costly]
    turned = at.turned(lambda outcome: not HIDING & outcome.changes - {"gradient"})
    tried = attack_table.power_images(at.correct, turned, bench.budget)
    if free and tried.any():
        at.power, at.powered = measurements.power(bench, tol, free, tried), int(tried.sum())
    return at


def _run(bench: Bench, at: AtTolerance, rows: Sequence[Row]) -> None:
    """Runs rows of the table, those that follow others only where these found something."""
    for row in rows:
        left = at.correct & ~worst_case(at.outcomes) if at.outcomes else at.correct
        if row.follows and not (left.any() and _alone(at, row.source).sum() > 1):
            continue
        at.rows.append(row)
        tried = at.correct
        if row.costly:
            tried = attack_table.costly_images(at.correct, at.outcomes[0], bench.budget)
        elif row.follows:
            tried = left
        _attack(bench, at, len(at.rows) - 1, tried)
        left &= ~worst_case(at.outcomes[:-1]) if len(at.outcomes) > 1 else left
        if row.costly and (at.outcomes[-1].turned & left).sum() > MASKED_SHARE * max(1, (tried & left).sum()):
            # What wins on a sample must be known of all images, or the worst case would be too good.
            _attack(bench, at, len(at.rows) - 1, left & ~tried)


def _alone(at: AtTolerance, source: str) -> np.ndarray:
    """[N] bool: images that the rows along a source turned, and none of the others."""
    pairs = list(zip(at.rows, at.outcomes, strict=False))
    ours = [outcome.turned for row, outcome in pairs if row.source == source]
    others = [outcome.turned for row, outcome in pairs if row.source != source]
    nothing = np.zeros(len(at.correct), bool)
    return np.any([nothing, *ours], axis=0) & ~np.any([nothing, *others], axis=0)


def _looks_hidden(bench: Bench, at: AtTolerance) -> bool:
    """Whether to look for ways round the gradient: an indicator of it fails, or what needs none finds more."""
    return bool(
        any(not one.passed for one in _indicators_of_gradient(bench, at, bench.exact, "masking"))
        or sum(_alone(at, source).sum() for source in ("none", *attack_table.DETOURS)) > 1
    )


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
    found = _indicators_of_gradient(bench, at, bench.exact, "masking")
    if bench.own != bench.exact:
        # The longer attacks follow this one: where it misleads, they are weak.
        found += _indicators_of_gradient(bench, at, bench.own, "evaluation")
    found += _indicators_of_attack(bench, at, at.strongest, "evaluation")
    found += _indicators_of_table(bench, at)
    published = at.sources[0]
    if published not in (bench.exact, bench.own):
        found += _indicators_of_gradient(bench, at, published, "published")
    if published != at.strongest:
        found += _indicators_of_attack(bench, at, published, "published")
    return found


def _indicators_of_gradient(bench: Bench, at: AtTolerance, source: str, group: str) -> list[Indicator]:
    """Is a source's gradient there, the same each time, and the loss's, at the image and as far as an attack goes?

    Asked where the loss changes at all: a constant model's zero gradient is true.
    """
    audit, threshold = at.audit, RANDOM_COSINE if bench.probe.draws > 1 else 1e-3
    varies = audit.get("varies", np.ones(len(audit[f"gradient/{source}"]), bool))
    if "image" in audit:
        varies = varies | worst_case(at.outcomes)[audit["image"]] if at.outcomes else varies
    found = [
        indicators.unavailable_gradients(audit[f"gradient/{source}"][varies], group),
        indicators.irreproducible_gradients(audit[f"reproduced/{source}"], group, threshold),
        indicators.misleading_gradients(_known(audit[f"difference/{source}"]), group),
    ]
    if f"attack/{source}" in audit and group == "masking":
        found.append(indicators.shattered_gradients(_known(audit[f"attack/{source}"]), group))
    return _named_after(source, found)


def _known(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _saturated(at: AtTolerance) -> np.ndarray:
    """[N] bool: audited images at which the cross-entropy's gradient is zero and the margin's is not."""
    own = next(name for name in at.audit if name.startswith("gradient/"))
    there = (at.audit[own].reshape(len(at.audit[own]), -1) != 0).any(axis=1)
    found = np.zeros(len(at.correct), bool)
    found[at.audit["image"][at.audit["saturated"] & there]] = True
    return found


def _behind(bench: Bench, at: AtTolerance) -> str:
    """What the model's own gradients are, a key of `GRADIENTS`, where much is hidden behind the published one."""
    if bench.probe.draws > 1:
        return "random"
    return "shattered" if at.sources[0] == bench.exact else "honest"


def _indicators_of_attack(bench: Bench, at: AtTolerance, source: str, group: str) -> list[Indicator]:
    """Does PGD along a source's gradient do what an attack should?"""
    _, path = measurements.trace(bench, at.tol, source, at.correct)
    turned = path["turned"].any(axis=0)
    found = [indicators.loss_not_raised(path["losses"], group)]
    if group != "published":
        _, swept = measurements.sweep(bench, at.tol, source, at.correct)
        chance, plant = measurements.plant(bench, at.tol, source, at.correct)
        at.by_chance = chance["by_chance"]
        found += [
            indicators.unbounded_attack_fails(swept["unbounded"], group),
            indicators.loss_falls_with_eps(swept["losses"], "informing"),
            indicators.planted_missed(plant["found"][plant["planted"]], "informing"),
        ]
    found += [
        indicators.incomplete_optimisation(path["losses"], turned, "informing"),
        indicators.silent_success(path["turned"], "informing"),
    ]
    if not at.audit.get("varies", np.ones(1, bool)).any() and not worst_case(at.outcomes).any():
        # Nothing raises the loss of a constant model, and nothing should.
        found = [dataclasses.replace(one, group="informing") for one in found]
    return _named_after(source, found)


def _named_after(source: str, found: list[Indicator]) -> list[Indicator]:
    suffix = "" if source == OWN else f" ({source})"
    return [dataclasses.replace(one, name=one.name + suffix) for one in found]


def _indicators_of_table(bench: Bench, at: AtTolerance) -> list[Indicator]:
    correct, steps = at.correct, bench.protocol.steps
    # What a detour finds, the model's own gradient hides.
    detoured = {row.name for row in at.rows if row.source in attack_table.DETOURS}
    white_box = at.turned(lambda one: one.name not in detoured and not {"gradient-free", "transfer"} & one.changes)
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
    short, _, longest = (at.pgd(bench.own, count).turned[correct] for count in counts)
    long = at.pgd(bench.own, counts[-1])
    others = at.turned(lambda outcome: outcome is not long)[correct]
    # Where the surface is rippled, more steps that do not help are a sign of it; else the shorter attack has counted.
    rippled = any(
        not one.passed and "shattered" in one.name for one in _indicators_of_gradient(bench, at, bench.exact, "masking")
    )
    found = [
        indicators.unstable_loss(at.audit["noise_change"], "informing"),
        indicators.gradient_free_wins(free[chosen], white_box[chosen], weight=share),
        dataclasses.replace(beaten, name="gradient-free beats the published attack"),
        indicators.more_steps_keep_helping(others, longest),
        indicators.more_steps_do_not_help(short, longest, "masking" if rippled else "informing"),
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
