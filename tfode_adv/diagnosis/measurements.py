"""The pieces of a diagnosis, each kept as soon as it is done; `procedure` puts them together.

Every measurement takes the `Bench` it is made on, and returns (what JSON holds, named arrays).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from tfode_adv.attacks import norms
from tfode_adv.diagnosis import attack_table, detection, gradient_audit, planted, surface, traced, trajectories
from tfode_adv.diagnosis.attack_table import ADJOINT, BACKPROP, OWN, STEPS, Protocol, Row
from tfode_adv.diagnosis.probe import Probe
from tfode_adv.diagnosis.stages import Stages
from tfode_adv.solvers import is_adaptive

ADJOINT_FINE = "adjoint, fine tolerance"
Tolerance = float | None
Piece = tuple[dict[str, Any], dict[str, np.ndarray]]

RANDOM_IMAGES = 16
# Logits of one image may differ by so much of their size when asked twice: sums taken in another order.
ROUNDING = 1e-4
EPS_MULTIPLES = (0.5, 1.0, 2.0, 4.0)
UNBOUNDED_STEPS = 20
TRAVEL_FIELDS = ("times", "l2", "cosine", "relative", "labels")


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
        stages: where finished pieces are kept.
        step: called with a few words before each piece.
        twin: a model that the user hands in to differentiate in this one's place, if any.
    """

    probe: Probe
    images: Images
    protocol: Protocol
    budget: str
    tols: list[Tolerance]
    stages: Stages
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

    def stage(self, name: str, tol: Tolerance, compute: Callable[[], Piece], **settings: Any) -> Piece:
        """The piece `name`, read or computed; `settings`: what it depends on beyond bench and tolerance."""
        self.step(name if tol is None else f"{name}, tau = {tol:g}")
        settings = {"protocol": dataclasses.asdict(self.protocol), "tol": tol, **settings}
        return self.stages(name if tol is None else f"{name}-tau{tol:g}", compute, **settings)

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


def randomness(bench: Bench) -> Piece:
    """ "random": whether the model answers twice the same images differently, beyond rounding."""

    def compute():
        x = bench.images.x[:RANDOM_IMAGES]
        first, second = (bench.probe.logits(x, **bench.forward(bench.tols[0])) for _ in range(2))
        # Of a failed solve there is nothing to compare.
        apart = np.nanmax(np.abs(first - second), initial=0.0)
        return {"random": bool(apart > ROUNDING * np.nanmax(np.abs(first), initial=0.0))}, {}

    return bench.stage("randomness", bench.tols[0], compute)


def power(bench: Bench, tol: Tolerance, rows: list[Row], tried: np.ndarray) -> dict[str, int]:
    """By row, how many of the images `tried` [N], which gradients turned, attacks without gradients turn as well."""

    def compute():
        found = {}
        for row in rows:
            outcome, _, _ = attack_table.run_row(
                row, bench.probe, bench.protocol, bench.images.x, bench.images.y, tried, tol
            )
            found[row.name] = int(outcome.turned.sum())
        return found, {}

    images = np.flatnonzero(tried).tolist()
    found, _ = bench.stage("power", tol, compute, images=images, rows=[[row.name, row.options] for row in rows])
    return {row.name: found[row.name] for row in rows}


def clean(bench: Bench, tol: Tolerance) -> Piece:
    """correct [N]; "steps": accepted steps, all blocks together, mean of images; "failed": solves that failed."""

    def compute():
        forward = bench.forward(tol)
        steps, failed = bench.probe.steps(bench.images.x, **forward)
        mean = float(steps.sum(axis=1).mean()) if bench.probe.blocks else None
        correct = bench.probe.mostly(bench.images.x, bench.images.y, **forward)
        return {"steps": mean, "failed": int(failed.sum())}, {"correct": correct}

    return bench.stage("clean", tol, compute)


def attack(bench: Bench, tol: Tolerance, row: Row, tried: np.ndarray) -> Piece:
    """One row of the attack table: turned [N], x_adv [N, ...]; "queries": mean per image tried."""

    def compute():
        outcome, x_adv, queries = attack_table.run_row(
            row, bench.probe, bench.protocol, bench.images.x, bench.images.y, tried, tol
        )
        return {"queries": queries}, {"turned": outcome.turned, "x_adv": x_adv}

    return bench.stage(
        row.name, tol, compute, options=row.options, source=row.source, images=np.flatnonzero(tried).tolist()
    )


def trace(bench: Bench, tol: Tolerance, source: str, correct: np.ndarray) -> Piece:
    """Plain PGD of twice the published steps: losses, turned [S + 1, M], made [N] bool, x_last [N, ...]."""
    chosen = bench.some(correct, "traced")

    def compute():
        x, y = bench.images.x[chosen], bench.images.y[chosen]
        path = traced.ascend(bench.probe, x, y, **bench.ascent(source, tol, 2 * bench.protocol.steps))
        images, made = bench.images.x.copy(), np.zeros(len(correct), bool)
        images[chosen], made[chosen] = path.x_last, True
        return {}, {"losses": path.losses, "turned": path.turned, "made": made, "x_last": images}

    return bench.stage(f"traced PGD, {source}", tol, compute, images=len(chosen))


def transfer(bench: Bench, tol: Tolerance, correct: np.ndarray, examples: dict) -> Piece:
    """What the examples made at other tolerances do: "names", tried and turned [len(names), N]."""

    def compute():
        outcomes = attack_table.transferred(bench.probe, bench.images.y, correct, tol, examples)
        tried, turned = (np.stack([getattr(one, name) for one in outcomes]) for name in ("tried", "turned"))
        return {"names": [outcome.name for outcome in outcomes]}, {"tried": tried, "turned": turned}

    return bench.stage("transfer", tol, compute, tols=bench.tols, budget=bench.budget)


def audit(bench: Bench, tol: Tolerance, correct: np.ndarray) -> Piece:
    """The gradient audit of clean images and of iterates, where an attack also asks for gradients.

    Returns:
        "rows", "step_changes"; image [M], the audited images' numbers; varies, saturated, noise_change [M]; and by
        source S gradient/S, difference/S, attack/S and reproduced/S.
    """
    chosen = bench.some(correct, "audited")
    chosen = chosen[: -(-len(chosen) // 2)]
    names = attack_table.sources_of(bench.probe, bench.protocol, tol)
    sources = {name: bench.gradient(name, tol) for name in sorted(names, key=lambda name: name != bench.own)}
    if tol is not None:
        sources[ADJOINT_FINE] = {"gradient": ADJOINT, "tol": min(bench.protocol.fine_tol, tol)}
    on_the_way = trace(bench, tol, bench.own, correct)[1]["x_last"]

    def compute():
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
        arrays = {"noise_change": found.noise_change, "image": image}
        arrays |= {"varies": found.varies, "saturated": found.saturated}
        for name in found.sources:
            arrays[f"gradient/{name}"] = found.gradients[name]
            arrays[f"difference/{name}"] = found.difference_cosine[name]
            arrays[f"attack/{name}"] = found.attack_cosine[name]
            arrays[f"reproduced/{name}"] = found.reproduced[name]
        return {"rows": found.rows(), "step_changes": found.step_changes}, arrays

    return bench.stage("gradient audit", tol, compute, images=len(chosen))


def sweep(bench: Bench, tol: Tolerance, source: str, correct: np.ndarray) -> Piece:
    """losses [E, M] reached at growing eps ("eps"), and unbounded [M]: turned where everything may change."""
    chosen = bench.some(correct, "swept")
    x, y = bench.images.x[chosen], bench.images.y[chosen]
    everything = float(np.sqrt(x[0].size)) if bench.protocol.norm == "l2" and len(x) else 1.0

    def reached(eps: float, steps: int) -> traced.Trace:
        ascent = {**bench.ascent(source, tol, steps), "eps": eps, "step_size": 2.5 * eps / steps}
        return traced.ascend(bench.probe, x, y, **ascent)

    def compute():
        radii = [min(everything, multiple * bench.protocol.eps) for multiple in EPS_MULTIPLES]
        # A failed solve has no loss, and must not hide those of the other iterates.
        losses = [np.fmax.reduce(reached(eps, bench.protocol.steps).losses) for eps in radii]
        return {"eps": radii}, {
            "losses": np.stack(losses),
            "unbounded": reached(everything, UNBOUNDED_STEPS).found,
        }

    return bench.stage(f"eps sweep, {source}", tol, compute, images=len(chosen))


def plant(bench: Bench, tol: Tolerance, source: str, correct: np.ndarray) -> Piece:
    """The planted examples: planted, found [M]; "by_chance"."""
    chosen = bench.some(correct, "planted")

    def compute():
        ascent = bench.ascent(source, tol, 2 * bench.protocol.steps)
        del ascent["judged"]
        test = planted.run(
            bench.probe,
            bench.images.x[chosen],
            **ascent,
            forward=bench.forward(tol),
            seed=bench.protocol.seed,
        )
        return {"by_chance": test.by_chance}, {"planted": test.planted, "found": test.found}

    return bench.stage(f"planted examples, {source}", tol, compute, images=len(chosen))


def loss_surface(bench: Bench, tol: Tolerance, sources: list[str], image: int) -> Piece:
    """offsets [P] and losses/S [P, P] around one image, along the gradient of each source S."""
    shape = bench.images.x.shape[1:]
    # In the Euclidean norms, the sign vector that just reaches the ball's surface.
    pixel = norms.unit(bench.protocol.norm, shape) if bench.protocol.norm != "linf" else 1.0
    pixel = pixel / np.sqrt(np.prod(shape)) if bench.protocol.norm != "linf" else pixel

    def compute():
        arrays = {}
        for source in sources:
            arrays["offsets"], arrays[f"losses/{source}"] = surface.loss_surface(
                bench.probe,
                bench.images.x[image],
                int(bench.images.y[image]),
                eps=2 * bench.protocol.eps * pixel,
                settings=bench.gradient(source, tol),
                forward=bench.forward(tol),
            )
        return {"image": image}, arrays

    return bench.stage("loss surface", tol, compute, sources=sources, image=image)


def travel(bench: Bench, tol: Tolerance, chosen: np.ndarray, x_adv: np.ndarray) -> list[trajectories.Travel]:
    """How the perturbations of the images `chosen` travel along t, by ODE block."""
    chosen = bench.some(chosen, "traced")

    def compute():
        x, y = bench.images.x[chosen], bench.images.y[chosen]
        found = trajectories.travel(bench.probe, x, x_adv[chosen], y, tol=tol)
        arrays = {f"{index}/{field}": getattr(one, field) for index, one in enumerate(found) for field in TRAVEL_FIELDS}
        return {"layers": [one.layer for one in found]}, arrays

    values, arrays = bench.stage("trajectories", tol, compute, budget=bench.budget, images=chosen.tolist())
    return [
        trajectories.Travel(layer, *(arrays[f"{index}/{field}"] for field in TRAVEL_FIELDS))
        for index, layer in enumerate(values["layers"])
    ]


def detect(
    bench: Bench,
    tol: float,
    references: tuple[float, ...],
    correct: np.ndarray,
    attacked: dict[str, np.ndarray],
) -> Piece:
    """Each detector against each attack: "rows"; I/fpr and I/tpr, the curve of row I where it has one.

    Args:
        attacked: successful adversarial images [M, ...] by the attack's name.
    """
    chosen = np.flatnonzero(correct)

    def compute():
        rows, arrays = [], {}
        for score in detection.SCORES:
            detector = detection.Detector(score, tol, references)
            detector = detector.calibrated(bench.probe, bench.images.validation)
            for name, adversarial in attacked.items():
                found = detection.detect(detector, bench.probe, bench.images.x[chosen], adversarial)
                arrays[f"{len(rows)}/fpr"], arrays[f"{len(rows)}/tpr"] = found.curve
                numbers = dataclasses.asdict(dataclasses.replace(found, curve=()))
                rows.append({**numbers, "score": score, "attack": name, "images": len(adversarial)})
            rows.append({"score": score, **_evasion(bench, tol, detector, bench.some(correct, "evaded"))})
        return {"rows": rows, "references": references}, arrays

    return bench.stage("detection", tol, compute, references=references, budget=bench.budget)


def _evasion(bench: Bench, tol: float, detector: detection.Detector, chosen: np.ndarray) -> dict[str, Any]:
    ascent = bench.ascent(BACKPROP, tol, 2 * bench.protocol.steps)
    del ascent["settings"], ascent["judged"]
    paths = detection.evade(detector, bench.probe, bench.images.x[chosen], bench.images.y[chosen], **ascent)
    best = np.any([path.found for path in paths.values()], axis=0)
    return {
        "attack": "knows the detector",
        "images": len(chosen),
        "escaped": int(best.sum()),
        "escaped_unaware": int(paths[0.0].found.sum()),
    }
