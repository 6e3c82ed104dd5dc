"""Is this robustness real? All measurements at all tolerances, and a verdict at each."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfode_adv.analysis import indicators
from tfode_adv.analysis.gradients import Audit
from tfode_adv.analysis.indicators import Indicator
from tfode_adv.analysis.travel import Travel
from tfode_adv.analysis.verdict import HIDING, Outcome, Verdict, judge, worst_case
from tfode_adv.diagnosis import attack_table, attacking, detours, measurements
from tfode_adv.diagnosis.attack_table import BACKPROP, OWN, Protocol, Row
from tfode_adv.diagnosis.attacking import Attacks
from tfode_adv.diagnosis.kept_pieces import KeptPieces
from tfode_adv.diagnosis.measurements import Bench, Images, Tolerance
from tfode_adv.diagnosis.probe import Probe, layers_of
from tfode_adv.errors import RunError
from tfode_adv.models import RandomSolver
from tfode_adv.solvers import is_adaptive

BLACK_BOX = ("gradient-free", "transfer")
# Runs of a randomised model whose mean is attacked. Where gradients of two single runs agree less than that, they are
# random.
DRAWS = 8
RANDOM_COSINE = 0.5


@dataclasses.dataclass(frozen=True)
class AtTolerance:
    """Everything measured at one tolerance; `tol` is None for a model that no tolerance changes.

    Attributes:
        correct: [N] bool, without an attack; accepted_steps: mean of an image; failed: solves that failed.
        rows, outcomes: the attack table, the published attack first; outcomes end with transfers.
        audit: what was measured of the gradients.
        queries, adversarial: by row, mean number of queries and images [N, ...].
        strongest: the gradient source whose PGD turned most images.
        power: by attack without gradients, how many it turns of the `powered` images tried that gradients turned.
        by_chance: share of the planted examples that random points find.
        surface, travel, detection: what `measurements` found; None or empty where it was not measured.
    """

    tol: Tolerance
    correct: np.ndarray
    accepted_steps: float | None
    failed: int
    rows: list[Row]
    outcomes: list[Outcome]
    audit: Audit
    queries: dict[str, float] = dataclasses.field(default_factory=dict)
    adversarial: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    strongest: str = OWN
    power: dict[str, int] = dataclasses.field(default_factory=dict)
    powered: int = 0
    by_chance: float = 0.0
    surface: measurements.Surface | None = None
    travel: list[Travel] = dataclasses.field(default_factory=list)
    detection: measurements.Detectors | None = None
    indicators: list[Indicator] = dataclasses.field(default_factory=list)
    verdict: Verdict | None = None

    @property
    def sources(self) -> list[str]:
        """The model's own gradient sources of the table, the published one first."""
        others = ("none", *attack_table.DETOURS)
        return list(dict.fromkeys(row.source for row in self.rows if row.source not in others))

    def pgd(self, source: str, steps: int) -> Outcome:
        """What plain PGD of so many steps through a source did."""
        return attacking.pgd(self.rows, self.outcomes, source, steps)

    def turned(self, keep: Callable[[Outcome], bool]) -> np.ndarray:
        """[N] bool: turned by any of the outcomes to keep."""
        kept = [outcome.turned for outcome in self.outcomes if keep(outcome)]
        return np.any([np.zeros(len(self.correct), bool), *kept], axis=0)


def pieces(probe: Probe, protocol: Protocol, budget: str, tols: Sequence[float]) -> int:
    """At most how many pieces `run` is made of, for a progress bar."""
    tolerances = tolerances_of(probe, tols)
    rows = sum(len(attack_table.rows_of(probe, protocol, budget, tol)) for tol in tolerances)
    return 1 + rows + len(tolerances) * (33 if probe.blocks else 26)


def tolerances_of(probe: Probe, tols: Sequence[float]) -> list[Tolerance]:
    """The tolerances to look at, ascending; [None] for a model that no tolerance changes."""
    if any(isinstance(layer, RandomSolver) for layer in layers_of(probe.original)):
        return [None]
    return sorted(set(tols)) if any(is_adaptive(block.solver) for block in probe.blocks) else [None]


def run(
    probe: Probe,
    images: Images,
    protocol: Protocol,
    *,
    budget: str,
    tols: Sequence[float],
    kept: KeptPieces,
    step: Callable[[str], None] = lambda words: None,
    twin: Any = None,
) -> list[AtTolerance]:
    """Diagnoses a model.

    Args:
        probe: the model; images: what it is looked at with; protocol: the published attack.
        budget: a key of `attack_table.BUDGETS`.
        tols: tolerances; ignored for a model without ODE blocks.
        kept: where finished pieces are kept and found again.
        step: called with a few words before each piece of work.
        twin: a model from the same images to as many logits, to differentiate in this one's place.

    Returns:
        One `AtTolerance` for each tolerance at which some image is classified correctly, ascending.

    Raises:
        RunError: if there is no such tolerance.
    """
    bench = Bench(probe, images, protocol, budget, tolerances_of(probe, tols), kept, step, twin)
    probe.draws = 1
    probe.random = measurements.randomness(bench).random
    if probe.random:
        probe.draws = DRAWS
    clean = {tol: measurements.clean(bench, tol) for tol in bench.tols}
    bench.tols = [tol for tol, found in clean.items() if found.correct.any()]
    if not bench.tols:
        raise RunError(f"none of {len(images.y)} images is classified correctly: nothing to attack")
    attacked = [_attacked(bench, tol, clean[tol]) for tol in bench.tols]
    # Only now is there something to transfer from every tolerance.
    examples = {at.tol: measurements.trace(bench, at.tol, bench.own, at.correct) for at in attacked}
    found = [_with_transfers(bench, at, examples) for at in attacked]
    return [_judged(bench, _looked_closer(bench, at, attacked)) for at in found]


def _with_transfers(bench: Bench, at: AtTolerance, examples: dict[Tolerance, measurements.Iterates]) -> AtTolerance:
    if len(examples) < 2:
        return at
    found = measurements.transfer(bench, at.tol, at.correct, examples)
    transfers = [
        Outcome(name, frozenset({"transfer"}), tried, turned)
        for name, tried, turned in zip(found.names, found.tried, found.turned, strict=True)
    ]
    return dataclasses.replace(at, outcomes=at.outcomes + transfers)


def _judged(bench: Bench, at: AtTolerance) -> AtTolerance:
    setting = "" if at.tol is None else f"at τ = {at.tol:g}"
    verdict = judge(at.correct, at.outcomes, at.indicators, setting, _saturated(bench, at), _behind(bench, at))
    return dataclasses.replace(at, verdict=verdict)


def _attacked(bench: Bench, tol: Tolerance, clean: measurements.Clean) -> AtTolerance:
    """The attack table, and what was measured to choose its rows."""
    correct = clean.correct
    audit = measurements.audit(bench, tol, correct)
    table = Attacks(bench, tol, correct)
    bench.probe.detours = detours.always(bench)
    rows = attack_table.rows_of(bench.probe, bench.protocol, bench.budget, tol)
    table.run([row for row in rows if not row.follows and not row.last])
    if _looks_hidden(bench, tol, audit, table):
        bench.probe.detours |= detours.when_hidden(bench, tol)
        rows = attack_table.rows_of(bench.probe, bench.protocol, bench.budget, tol)
        table.run([row for row in rows if not row.follows and not row.last and row not in table.rows])
    table.run([row for row in rows if row.follows])
    table.run([row for row in rows if row.last])
    at = AtTolerance(
        tol,
        correct,
        accepted_steps=clean.steps,
        failed=clean.failed,
        rows=table.rows,
        outcomes=table.outcomes,
        audit=audit,
        queries=table.queries,
        adversarial=table.adversarial,
    )
    sources = attack_table.sources_of(bench.probe, bench.protocol, tol)
    turned = {
        source: at.pgd(source, bench.protocol.own_steps).turned.sum() for source in sources if source in at.sources
    }
    # In a tie, the gradient of what the model computes.
    strongest = max(turned, key=lambda source: (turned[source], source == bench.own))
    free = [row for row in at.rows if row.costly]
    by_gradients = at.turned(lambda outcome: not HIDING & outcome.changes - {"gradient"})
    tried = attack_table.power_images(correct, by_gradients, bench.budget)
    power, powered = {}, 0
    if free and tried.any():
        power, powered = measurements.power(bench, tol, free, tried).turned, int(tried.sum())
    return dataclasses.replace(at, strongest=strongest, power=power, powered=powered)


def _looks_hidden(bench: Bench, tol: Tolerance, audit: Audit, table: Attacks) -> bool:
    """Whether to look for ways round the gradient: an indicator of it fails, or what needs none finds more."""
    swept = measurements.sweep(bench, tol, bench.own, table.correct)
    found = _indicators_of_gradient(bench, audit, table.outcomes, bench.exact, "masking")
    found += [indicators.vanishing_gradients(audit.blind), indicators.loss_falls_with_eps(swept.losses)]
    return bool(
        any(not one.passed for one in found)
        or sum(table.alone(source).sum() for source in ("none", *attack_table.DETOURS)) > 1
    )


def _looked_closer(bench: Bench, at: AtTolerance, everywhere: Sequence[AtTolerance]) -> AtTolerance:
    """`at` with its indicators, and with what is shown beside them."""
    found = _indicators(bench, at)
    # The same image at every tolerance, one that all of them classify correctly.
    always = np.all([other.correct for other in everywhere], axis=0)
    drawn = list(dict.fromkeys((at.sources[0], bench.own)))
    surface = measurements.surface(bench, at.tol, drawn, int(np.argmax(always)))
    by_chance = measurements.plant(bench, at.tol, at.strongest, at.correct).by_chance
    at = dataclasses.replace(at, indicators=found, surface=surface, by_chance=by_chance)
    if not bench.probe.blocks:
        return at
    worst, x_adv = _worst_images(bench, at)
    travel = measurements.travel(bench, at.tol, worst, x_adv).blocks if worst.any() else []
    references = tuple(tol for tol in (bench.tols[0], bench.tols[-1]) if tol != at.tol)
    # The stock solver shares its step among a batch, and a tolerance too.
    stock = any(block.solver == "tfp" for block in bench.probe.blocks)
    detects = references and not stock and len(bench.images.validation)
    return dataclasses.replace(at, travel=travel, detection=_detect(bench, at, references) if detects else None)


def _indicators(bench: Bench, at: AtTolerance) -> list[Indicator]:
    """On the model's gradients, on the strongest attack, on the table, and on the published attack.

    Whether the model hides its gradient is asked of its own exact one: that of a surrogate (fixed steps, a fine
    tolerance) is another function's, however well it attacks.
    """
    found = _indicators_of_gradient(bench, at.audit, at.outcomes, bench.exact, "masking")
    found += [indicators.vanishing_gradients(at.audit.blind), indicators.saturated_loss(at.audit.saturated)]
    if bench.own != bench.exact:
        # The longer attacks follow this one: where it misleads, they are weak.
        found += _indicators_of_gradient(bench, at.audit, at.outcomes, bench.own, "evaluation")
    found += _indicators_of_attack(bench, at, at.strongest, "evaluation")
    found += _indicators_of_table(bench, at)
    published = at.sources[0]
    if published not in (bench.exact, bench.own):
        found += _indicators_of_gradient(bench, at.audit, at.outcomes, published, "published")
    if published != at.strongest:
        found += _indicators_of_attack(bench, at, published, "published")
    return found


def _indicators_of_gradient(
    bench: Bench, audit: Audit, outcomes: Sequence[Outcome], source: str, group: str
) -> list[Indicator]:
    """Is a source's gradient there, the same each time, and the loss's, at the image and as far as an attack goes?

    Asked where the loss changes at all: a constant model's zero gradient is true.
    """
    threshold = RANDOM_COSINE if bench.probe.draws > 1 else 1e-3
    varies = audit.varies | worst_case(outcomes)[audit.image] if outcomes else audit.varies
    found = [
        indicators.unavailable_gradients(audit.gradients[source][varies], group),
        indicators.irreproducible_gradients(audit.reproduced[source], group, threshold),
        indicators.misleading_gradients(_known(audit.difference_cosine[source]), group),
    ]
    if source in audit.attack_cosine and group == "masking":
        found.append(indicators.shattered_gradients(_known(audit.attack_cosine[source]), group))
    return _named_after(source, found)


def _known(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _saturated(bench: Bench, at: AtTolerance) -> np.ndarray:
    """[N] bool: images whose cross-entropy alone is saturated, at the image or where the audit looked."""
    found = np.zeros(len(at.correct), bool)
    found[at.audit.image[at.audit.saturated]] = True
    # Of no matter where nothing found more than the published attack.
    lost = at.turned(lambda outcome: True) & ~at.outcomes[0].turned
    return found | measurements.saturated(bench, at.tol, at.correct).loss if lost.any() else found


def _behind(bench: Bench, at: AtTolerance) -> str:
    """What the model's own gradients are, a key of `GRADIENTS`, where much is hidden behind the published one."""
    if bench.probe.draws > 1:
        return "random"
    return "shattered" if at.sources[0] == bench.exact else "honest"


def _indicators_of_attack(bench: Bench, at: AtTolerance, source: str, group: str) -> list[Indicator]:
    """Does PGD along a source's gradient do what an attack should?"""
    path = measurements.trace(bench, at.tol, source, at.correct)
    turned = path.turned.any(axis=0)
    found = [indicators.loss_not_raised(path.losses, group)]
    if group != "published":
        swept = measurements.sweep(bench, at.tol, source, at.correct)
        plant = measurements.plant(bench, at.tol, source, at.correct)
        found += [
            indicators.unbounded_attack_fails(swept.unbounded, group),
            indicators.loss_falls_with_eps(
                swept.losses, "masking" if source in (bench.own, bench.exact) else "informing"
            ),
            indicators.planted_missed(plant.found[plant.planted], "informing"),
        ]
    found += [
        indicators.incomplete_optimisation(path.losses, turned, "informing"),
        indicators.silent_success(path.turned, "informing"),
    ]
    if not at.audit.varies.any() and not worst_case(at.outcomes).any():
        # Nothing raises the loss of a constant model, and nothing should.
        found = [dataclasses.replace(one, group="informing") for one in found]
    return _named_after(source, found)


def _named_after(source: str, found: list[Indicator]) -> list[Indicator]:
    suffix = "" if source == OWN else f" ({source})"
    return [dataclasses.replace(one, name=one.name + suffix) for one in found]


def _indicators_of_table(bench: Bench, at: AtTolerance) -> list[Indicator]:
    correct, steps = at.correct, bench.protocol.own_steps
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
    exact = _indicators_of_gradient(bench, at.audit, at.outcomes, bench.exact, "masking")
    rippled = any(not one.passed and "shattered" in one.name for one in exact)
    found = [
        indicators.unstable_loss(at.audit.noise_change, "informing"),
        indicators.gradient_free_wins(free[chosen], white_box[chosen], weight=share),
        dataclasses.replace(beaten, name="gradient-free beats the published attack"),
        indicators.averaging_wins(*(found[correct] for found in _averaged_and_plain(bench, at))),
        indicators.out_of_reach(bench.protocol.steps, bench.protocol.step_size, bench.protocol.eps),
        indicators.more_steps_keep_helping(others, longest),
        indicators.more_steps_do_not_help(short, longest, "masking" if rippled else "informing"),
    ]
    if len(bench.tols) > 1:
        found.append(indicators.black_box_wins(transfer[sent], white_box[sent]))
    if bench.probe.blocks and bench.protocol.solver is not None:
        left = measurements.elsewhere(bench, at.tol).left
        found.append(indicators.other_solver(left[correct], published[correct]))
    return found


def _averaged_and_plain(bench: Bench, at: AtTolerance) -> tuple[np.ndarray, np.ndarray]:
    """[N] bool each: turned along the own gradient's mean, over noise or by momentum; and along it as it is."""
    averaged, plain = np.zeros((2, len(at.correct)), bool)
    for row, outcome in zip(at.rows, at.outcomes, strict=False):
        if row.source == attack_table.AVERAGED or (row.source == bench.own and row.kind == "mim"):
            averaged |= outcome.turned
        elif row.source == bench.own and row.direct:
            plain |= outcome.turned
    return averaged, plain


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


def _detect(bench: Bench, at: AtTolerance, references: tuple[float, ...]) -> measurements.Detectors:
    shown = {at.outcomes[0].name, at.pgd(BACKPROP, 2 * bench.protocol.own_steps).name, "SPSA"}
    attacked = {
        row.name: at.adversarial[row.name][outcome.turned]
        for row, outcome in zip(at.rows, at.outcomes, strict=False)
        if row.name in shown
    }
    return measurements.detect(bench, at.tol, references, at.correct, attacked)
