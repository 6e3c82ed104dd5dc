"""The pieces of a diagnosis, each kept as soon as it is done; `procedure` puts them together.

Every measurement takes the `Bench` it is made on, and returns a dataclass of what it found.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from tfode_adv.analysis.gradients import Audit
from tfode_adv.analysis.travel import Travel
from tfode_adv.attacks import norms
from tfode_adv.diagnosis import (
    attack_table,
    detection,
    gradient_audit,
    loss_surface,
    piece_form,
    planted_examples,
    recorded_ascent,
    trajectories,
)
from tfode_adv.diagnosis.attack_table import ADJOINT, BACKPROP, OWN, STEPS, Protocol, Row
from tfode_adv.diagnosis.kept_pieces import KeptPieces
from tfode_adv.diagnosis.probe import Probe
from tfode_adv.solvers import is_adaptive

ADJOINT_FINE = "adjoint, fine tolerance"
Tolerance = float | None
Piece = TypeVar("Piece")

RANDOM_IMAGES = 16
# Logits of one image may differ by so much of their size when asked twice: sums taken in another order.
ROUNDING = 1e-4
EPS_MULTIPLES = (0.5, 1.0, 2.0, 4.0)
UNBOUNDED_STEPS = 20


@dataclasses.dataclass(frozen=True)
class Images:
    """Test images x [N, H, W, C] in [0, 1], their labels y [N], and clean validation images, none if the
    training held none out: detectors are then left out."""

    x: np.ndarray
    y: np.ndarray
    validation: np.ndarray


@dataclasses.dataclass
class Bench:
    """What every measurement needs.

    Attributes:
        probe: the model; images: what it is looked at with; protocol: the published attack.
        budget: a key of `attack_table.BUDGETS`.
        tols: tolerances, ascending; [None] for a model without ODE blocks.
        kept: where finished pieces are kept.
        step: called with a few words before each piece.
        twin: a model that the user hands in to differentiate in this one's place, if any.
    """

    probe: Probe
    images: Images
    protocol: Protocol
    budget: str
    tols: list[Tolerance]
    kept: KeptPieces
    step: Callable[[str], None] = lambda words: None
    twin: Any = None

    @property
    def own(self) -> str:
        """The gradient source that most attacks follow: backpropagation, with step sizes held constant."""
        return BACKPROP if self.probe.blocks else OWN

    @property
    def exact(self) -> str:
        """The gradient source that differentiates all that the model computes, adaptive step sizes too."""
        return STEPS if any(is_adaptive(block.solver) for block in self.probe.blocks) else self.own

    def some(self, mask: np.ndarray, size: str) -> np.ndarray:
        """Indices of the first images in `mask` [N], as many as the budget has for `size`."""
        return np.flatnonzero(mask)[: attack_table.BUDGETS[self.budget][size]]

    def piece(
        self, name: str, tol: Tolerance, kind: type[Piece], compute: Callable[[], Piece], **settings: Any
    ) -> Piece:
        """The piece `name`, read or computed; `settings`: what it depends on beyond bench and tolerance."""
        self.step(name if tol is None else f"{name}, tau = {tol:g}")
        settings = {
            "protocol": dataclasses.asdict(self.protocol),
            "tol": tol,
            "form": piece_form.form(kind),
            **settings,
        }
        kept = self.kept(
            name if tol is None else f"{name}-tau{tol:g}", lambda: piece_form.packed(compute()), **settings
        )
        return piece_form.unpacked(kind, *kept)

    def forward(self, tol: Tolerance) -> dict[str, Any]:
        """The settings that the model is judged under."""
        return {} if tol is None else {"tol": tol}

    def gradient(self, source: str, tol: Tolerance) -> dict[str, Any]:
        """The settings that a source's gradient is taken through."""
        return attack_table.settings_of(source, tol, self.protocol.fine_tol)

    def ascent(self, source: str, tol: Tolerance, steps: int) -> dict[str, Any]:
        """What plain PGD through a source needs, judged at the tested tolerance in any case."""
        return {
            "norm": self.protocol.norm,
            "eps": self.protocol.eps,
            "step_size": self.protocol.step_for(steps),
            "steps": steps,
            "settings": self.gradient(source, tol),
            "judged": None if source in (OWN, BACKPROP, STEPS, ADJOINT) else self.forward(tol),
        }


@dataclasses.dataclass(frozen=True)
class Randomness:
    """Whether the model answers twice the same images differently, beyond rounding."""

    random: bool


@dataclasses.dataclass(frozen=True)
class Clean:
    """Without an attack: correct [N]; steps: accepted ones, all blocks together, mean of images; failed solves."""

    correct: np.ndarray
    steps: float | None
    failed: int


@dataclasses.dataclass(frozen=True)
class Elsewhere:
    """What the published attack leaves on the solver that it was published on, [N] bool."""

    left: np.ndarray


@dataclasses.dataclass(frozen=True)
class Attacked:
    """What a row of the attack table did: turned [N], x_adv [N, ...], and the mean of queries per image tried."""

    turned: np.ndarray
    x_adv: np.ndarray
    queries: float


@dataclasses.dataclass(frozen=True)
class Power:
    """By attack without gradients, how many images it turned."""

    turned: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Iterates:
    """Plain PGD step by step on M of N images: losses and turned [S + 1, M], made [N] bool, x_last [N, ...]."""

    losses: np.ndarray
    turned: np.ndarray
    made: np.ndarray
    x_last: np.ndarray


@dataclasses.dataclass(frozen=True)
class Transferred:
    """What examples made at other tolerances do: names [K], tried and turned [K, N]."""

    names: list[str]
    tried: np.ndarray
    turned: np.ndarray


@dataclasses.dataclass(frozen=True)
class Saturated:
    """Of which images [N] the cross-entropy alone has no gradient in float32; not of those that err unattacked."""

    loss: np.ndarray


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Losses [E, M] reached at growing eps [E], and unbounded [M]: turned where everything may change."""

    eps: list[float]
    losses: np.ndarray
    unbounded: np.ndarray


@dataclasses.dataclass(frozen=True)
class Surface:
    """The loss around one image: offsets [P] and, along the gradient of each source, losses [P, P]."""

    image: int
    offsets: np.ndarray
    losses: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Travels:
    """How perturbations travel along t, by ODE block."""

    blocks: list[Travel]


@dataclasses.dataclass(frozen=True)
class Detectors:
    """Each score's detector against each attack that does not know it, and the attack that does."""

    detections: list[detection.Detection]
    evasions: list[detection.Evasion]

    def by_score(self) -> list[detection.Detection | detection.Evasion]:
        """All of them, those of one score together."""
        scores = [one.score for one in self.evasions]
        return sorted([*self.detections, *self.evasions], key=lambda one: scores.index(one.score))


def randomness(bench: Bench) -> Randomness:
    """Asks the same twice."""

    def compute() -> Randomness:
        x = bench.images.x[:RANDOM_IMAGES]
        first, second = (bench.probe.logits(x, **bench.forward(bench.tols[0])) for _ in range(2))
        # Of a failed solve there is nothing to compare.
        apart = np.nanmax(np.abs(first - second), initial=0.0)
        return Randomness(bool(apart > ROUNDING * np.nanmax(np.abs(first), initial=0.0)))

    return bench.piece("randomness", bench.tols[0], Randomness, compute)


def power(bench: Bench, tol: Tolerance, rows: list[Row], tried: np.ndarray) -> Power:
    """How many of the images `tried` [N], which gradients turned, attacks without gradients turn as well."""

    def compute() -> Power:
        found = {}
        for row in rows:
            outcome, _, _ = attack_table.run_row(
                row, bench.probe, bench.protocol, bench.images.x, bench.images.y, tried, tol
            )
            found[row.name] = int(outcome.turned.sum())
        return Power(found)

    images = np.flatnonzero(tried).tolist()
    return bench.piece("power", tol, Power, compute, images=images, rows=[[row.name, row.options] for row in rows])


def clean(bench: Bench, tol: Tolerance) -> Clean:
    """The model's own answers."""

    def compute() -> Clean:
        forward = bench.forward(tol)
        steps, failed = bench.probe.steps(bench.images.x, **forward)
        mean = float(steps.sum(axis=1).mean()) if bench.probe.blocks else None
        correct = bench.probe.mostly(bench.images.x, bench.images.y, **forward)
        return Clean(correct, mean, int(failed.sum()))

    return bench.piece("clean", tol, Clean, compute)


def attack(bench: Bench, tol: Tolerance, row: Row, tried: np.ndarray) -> Attacked:
    """One row of the attack table on the images `tried` [N]."""

    def compute() -> Attacked:
        outcome, x_adv, queries = attack_table.run_row(
            row, bench.probe, bench.protocol, bench.images.x, bench.images.y, tried, tol
        )
        return Attacked(outcome.turned, x_adv, queries)

    images = np.flatnonzero(tried).tolist()
    return bench.piece(row.name, tol, Attacked, compute, options=row.options, source=row.source, images=images)


def elsewhere(bench: Bench, tol: Tolerance) -> Elsewhere:
    """The published attack, made and judged on the solver that the protocol names."""

    def compute() -> Elsewhere:
        images = bench.images
        return Elsewhere(attack_table.left_elsewhere(bench.probe, bench.protocol, images.x, images.y, tol))

    return bench.piece("attacked solver", tol, Elsewhere, compute)


def trace(bench: Bench, tol: Tolerance, source: str, correct: np.ndarray) -> Iterates:
    """Plain PGD of twice as many steps as the shortest attack of ours."""
    chosen = bench.some(correct, "traced")

    def compute() -> Iterates:
        x, y = bench.images.x[chosen], bench.images.y[chosen]
        path = recorded_ascent.ascend(bench.probe, x, y, **bench.ascent(source, tol, 2 * bench.protocol.own_steps))
        images, made = bench.images.x.copy(), np.zeros(len(correct), bool)
        images[chosen], made[chosen] = path.x_last, True
        return Iterates(path.losses, path.turned, made, images)

    return bench.piece(f"traced PGD, {source}", tol, Iterates, compute, images=len(chosen))


def transfer(bench: Bench, tol: Tolerance, correct: np.ndarray, examples: dict[Tolerance, Iterates]) -> Transferred:
    """What the examples made at other tolerances do."""

    def compute() -> Transferred:
        made = {other: (path.made, path.x_last) for other, path in examples.items()}
        outcomes = attack_table.transferred(bench.probe, bench.images.y, correct, tol, made)
        tried, turned = (np.stack([getattr(one, name) for one in outcomes]) for name in ("tried", "turned"))
        return Transferred([outcome.name for outcome in outcomes], tried, turned)

    return bench.piece("transfer", tol, Transferred, compute, tols=bench.tols, budget=bench.budget)


def audit(bench: Bench, tol: Tolerance, correct: np.ndarray) -> Audit:
    """The gradient audit of clean images and of iterates, where an attack also asks for gradients."""
    chosen = bench.some(correct, "audited")
    chosen = chosen[: -(-len(chosen) // 2)]
    names = attack_table.sources_of(bench.probe, bench.protocol, tol)
    sources = {name: bench.gradient(name, tol) for name in sorted(names, key=lambda name: name != bench.own)}
    if tol is not None:
        sources[ADJOINT_FINE] = {"gradient": ADJOINT, "tol": min(bench.protocol.fine_tol, tol)}
    on_the_way = trace(bench, tol, bench.own, correct).x_last

    def compute() -> Audit:
        x, image = np.concatenate([bench.images.x[chosen], on_the_way[chosen]]), np.concatenate([chosen, chosen])
        found = gradient_audit.audit(
            bench.probe,
            x,
            bench.images.y[image],
            sources,
            forward=bench.forward(tol),
            eps=attack_table.pixel_size(bench.protocol.norm, bench.protocol.eps, x.shape[1:]),
            seed=bench.protocol.seed,
        )
        return dataclasses.replace(found, image=image)

    return bench.piece("gradient audit", tol, Audit, compute, images=len(chosen))


def saturated(bench: Bench, tol: Tolerance, correct: np.ndarray) -> Saturated:
    """At which images attacks on the cross-entropy stay where they are, though the margin has a gradient.

    Asked of all images, where the audit looks at some: which of them other attacks turned is counted one by one.
    """

    def compute() -> Saturated:
        chosen = np.flatnonzero(correct)
        x, y, settings = bench.images.x[chosen], bench.images.y[chosen], bench.gradient(bench.own, tol)
        found = np.zeros(len(correct), bool)
        found[chosen] = gradient_audit.loss_saturated(
            bench.probe.gradient(x, y, **settings)[1], bench.probe.margin_gradient(x, y, **settings)
        )
        return Saturated(found)

    return bench.piece("saturated loss", tol, Saturated, compute)


def sweep(bench: Bench, tol: Tolerance, source: str, correct: np.ndarray) -> Sweep:
    """Plain PGD at growing eps, and where everything may change."""
    chosen = bench.some(correct, "swept")
    x, y = bench.images.x[chosen], bench.images.y[chosen]
    everything = float(np.sqrt(x[0].size)) if bench.protocol.norm == "l2" and len(x) else 1.0

    def reached(eps: float, steps: int) -> recorded_ascent.Trace:
        ascent = {**bench.ascent(source, tol, steps), "eps": eps, "step_size": 2.5 * eps / steps}
        return recorded_ascent.ascend(bench.probe, x, y, **ascent)

    def compute() -> Sweep:
        radii = [min(everything, multiple * bench.protocol.eps) for multiple in EPS_MULTIPLES]
        # A failed solve has no loss, and must not hide those of the other iterates.
        losses = [np.fmax.reduce(reached(eps, bench.protocol.own_steps).losses) for eps in radii]
        return Sweep(radii, np.stack(losses), reached(everything, UNBOUNDED_STEPS).found)

    return bench.piece(f"eps sweep, {source}", tol, Sweep, compute, images=len(chosen))


def plant(bench: Bench, tol: Tolerance, source: str, correct: np.ndarray) -> planted_examples.Planted:
    """The planted examples, looked for along a source's gradient."""
    chosen = bench.some(correct, "planted")

    def compute() -> planted_examples.Planted:
        ascent = bench.ascent(source, tol, 2 * bench.protocol.own_steps)
        del ascent["judged"]
        return planted_examples.run(
            bench.probe,
            bench.images.x[chosen],
            **ascent,
            forward=bench.forward(tol),
            seed=bench.protocol.seed,
        )

    return bench.piece(f"planted examples, {source}", tol, planted_examples.Planted, compute, images=len(chosen))


def surface(bench: Bench, tol: Tolerance, sources: list[str], image: int) -> Surface:
    """The loss around one image, along the gradient of each source."""
    shape = bench.images.x.shape[1:]
    # In the Euclidean norms, the sign vector that just reaches the ball's surface.
    pixel = norms.unit(bench.protocol.norm, shape) if bench.protocol.norm != "linf" else 1.0
    pixel = pixel / np.sqrt(np.prod(shape)) if bench.protocol.norm != "linf" else pixel

    def around(source: str) -> tuple[np.ndarray, np.ndarray]:
        return loss_surface.loss_surface(
            bench.probe,
            bench.images.x[image],
            int(bench.images.y[image]),
            eps=2 * bench.protocol.eps * pixel,
            settings=bench.gradient(source, tol),
            forward=bench.forward(tol),
        )

    def compute() -> Surface:
        found = {source: around(source) for source in sources}
        offsets, _ = found[sources[0]]
        return Surface(image, offsets, {source: losses for source, (_, losses) in found.items()})

    return bench.piece("loss surface", tol, Surface, compute, sources=sources, image=image)


def travel(bench: Bench, tol: Tolerance, chosen: np.ndarray, x_adv: np.ndarray) -> Travels:
    """How the perturbations of the images `chosen` [N] bool travel along t, by ODE block."""
    chosen = bench.some(chosen, "traced")

    def compute() -> Travels:
        x, y = bench.images.x[chosen], bench.images.y[chosen]
        return Travels(trajectories.travel(bench.probe, x, x_adv[chosen], y, tol=tol))

    return bench.piece("trajectories", tol, Travels, compute, budget=bench.budget, images=chosen.tolist())


def detect(
    bench: Bench,
    tol: float,
    references: tuple[float, ...],
    correct: np.ndarray,
    attacked: dict[str, np.ndarray],
) -> Detectors:
    """Each detector against each attack.

    Args:
        attacked: successful adversarial images [M, ...] by the attack's name.
    """
    chosen = np.flatnonzero(correct)

    def compute() -> Detectors:
        detections, evasions = [], []
        for score in detection.SCORES:
            detector = detection.Detector(score, tol, references)
            detector = detector.calibrated(bench.probe, bench.images.validation)
            clean = bench.images.x[chosen]
            detections += [
                detection.detect(detector, bench.probe, clean, adversarial, name)
                for name, adversarial in attacked.items()
            ]
            evasions.append(_evasion(bench, tol, detector, bench.some(correct, "evaded")))
        return Detectors(detections, evasions)

    return bench.piece("detection", tol, Detectors, compute, references=references, budget=bench.budget)


def _evasion(bench: Bench, tol: float, detector: detection.Detector, chosen: np.ndarray) -> detection.Evasion:
    ascent = bench.ascent(BACKPROP, tol, 2 * bench.protocol.own_steps)
    del ascent["settings"], ascent["judged"]
    paths = detection.evade(detector, bench.probe, bench.images.x[chosen], bench.images.y[chosen], **ascent)
    best = np.any([path.found for path in paths.values()], axis=0)
    return detection.Evasion(detector.score, len(chosen), int(best.sum()), int(paths[0.0].found.sum()))
