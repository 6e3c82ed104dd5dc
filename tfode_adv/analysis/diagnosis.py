"""Everything `bin/diagnose` measures, in stages that survive a kill, and the document they make."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfode_adv.analysis import (
    attack_table,
    detection,
    gradient_audit,
    indicators,
    planted,
    surface,
    traced,
    trajectories,
    verdict,
)
from tfode_adv.analysis.attack_table import BACKPROP, FINE, OWN, Protocol, Row
from tfode_adv.analysis.probe import Probe
from tfode_adv.analysis.stages import Stages
from tfode_adv.analysis.verdict import Outcome
from tfode_adv.attacks import norms

EPS_MULTIPLES = (0.5, 1.0, 2.0, 4.0)
UNBOUNDED_STEPS = 20
# Shares of the images that the dearer measurements are made on.
AUDITED, PLANTED, TRAVELLED = 64, 32, 64


@dataclasses.dataclass(frozen=True)
class Images:
    """What a diagnosis looks at: test images [N, H, W, C] in [0, 1], labels [N], clean validation images."""

    x: np.ndarray
    y: np.ndarray
    validation: np.ndarray


@dataclasses.dataclass
class AtTolerance:
    """Everything measured at one tolerance; `tol` is None for a model without ODE blocks."""

    tol: float | None
    correct: np.ndarray
    accepted_steps: float | None
    rows: list[Row] = dataclasses.field(default_factory=list)
    outcomes: list[Outcome] = dataclasses.field(default_factory=list)
    queries: dict[str, float] = dataclasses.field(default_factory=dict)
    adversarial: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    strongest: str = OWN
    audit: dict[str, Any] = dataclasses.field(default_factory=dict)
    surface: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    travel: list[trajectories.Travel] = dataclasses.field(default_factory=list)
    detection: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    indicators: list[indicators.Indicator] = dataclasses.field(default_factory=list)
    verdict: verdict.Verdict | None = None

    @property
    def published(self) -> Outcome:
        return self.outcomes[0]

    @property
    def name(self) -> str:
        return "the model's own solver" if self.tol is None else f"tau = {self.tol:g}"

    def outcome(self, name: str) -> Outcome | None:
        return next((outcome for outcome in self.outcomes if outcome.name == name), None)


class Diagnosis:
    """Runs the stages of a diagnosis; call `run`.

    Args:
        probe: the model.
        images: what it is looked at with.
        protocol: the published attack.
        budget: a key of `attack_table.BUDGETS`.
        tols: tolerances; ignored for a model without ODE blocks.
        stages: where finished pieces are kept.
        step: called with a few words before each piece of work, for a progress bar.
    """

    def __init__(
        self,
        probe: Probe,
        images: Images,
        protocol: Protocol,
        budget: str,
        tols: Sequence[float],
        stages: Stages,
        step: Callable[[str], None] = lambda words: None,
    ):
        self.probe, self.images, self.protocol, self.budget = probe, images, protocol, budget
        self.tols: list[float | None] = sorted(tols) if probe.blocks else [None]
        self.stages, self.step = stages, step

    @property
    def work(self) -> int:
        """How many times `step` will be called."""
        pieces = 8 if self.probe.blocks else 6
        rows = sum(len(attack_table.rows_of(self.probe, self.protocol, self.budget, tol)) for tol in self.tols)
        return rows + pieces * len(self.tols)

    def run(self) -> list[AtTolerance]:
        """Measures everything, one `AtTolerance` for each tolerance, ascending."""
        found = [self._look(tol) for tol in self.tols]
        for at in found:
            self._attack(at)
        # Only now is there something to transfer from every tolerance.
        transferable = {at.tol: self._transferable(at) for at in found}
        for at in found:
            if self.probe.blocks:
                at.outcomes += self._transfer(at, transferable)
            self._audit(at)
            self._indicate(at)
            self._draw_surface(at)
            if self.probe.blocks:
                self._travel(at)
                self._detect(at)
            setting = "" if at.tol is None else f"at tau = {at.tol:g}"
            at.verdict = verdict.judge(at.correct, at.outcomes, at.indicators, setting)
        return found

    def _stage(self, name: str, tol: float | None, compute: Callable, **settings: Any):
        self.step(name if tol is None else f"{name}, tau = {tol:g}")
        settings = {"protocol": dataclasses.asdict(self.protocol), "tol": tol, **settings}
        return self.stages(name if tol is None else f"{name}-tau{tol:g}", compute, **settings)

    def _forward(self, tol: float | None) -> dict[str, Any]:
        return {} if tol is None else {"tol": tol}

    def _gradient(self, source: str, tol: float | None) -> dict[str, Any]:
        return attack_table.settings_of(source, tol, self.protocol.fine_tol)

    def _look(self, tol: float | None) -> AtTolerance:
        x, y = self.images.x, self.images.y

        def compute():
            forward = self._forward(tol)
            steps = self.probe.steps(x, **forward)
            mean = float(steps.sum(axis=1).mean()) if self.probe.blocks else None
            return {"steps": mean}, {"correct": self.probe.predict(x, **forward) == y}

        values, arrays = self._stage("clean", tol, compute)
        return AtTolerance(tol, arrays["correct"], values["steps"])

    def _attack(self, at: AtTolerance) -> None:
        x, y = self.images.x, self.images.y
        at.rows = attack_table.rows_of(self.probe, self.protocol, self.budget, at.tol)
        for row in at.rows:
            tried = at.correct
            if row.costly:
                tried = attack_table.costly_images(at.correct, at.published, self.budget)

            def compute(row=row, tried=tried):
                outcome, adversarial, queries = attack_table.run_row(
                    row, self.probe, self.protocol, x, y, tried, at.tol
                )
                arrays = {"tried": outcome.tried, "turned": outcome.turned, "x_adv": adversarial}
                return {"queries": queries}, arrays

            values, arrays = self._stage(row.name, at.tol, compute, options=row.options, source=row.source)
            at.outcomes.append(Outcome(row.name, row.changes, arrays["tried"], arrays["turned"]))
            at.queries[row.name] = values["queries"]
            at.adversarial[row.name] = arrays["x_adv"]
        at.strongest = self._strongest(at)

    def _strongest(self, at: AtTolerance) -> str:
        """The gradient source whose PGD of twice the published steps turned most images."""
        steps = 2 * self.protocol.steps
        found = {}
        for row, outcome in zip(at.rows, at.outcomes, strict=True):
            if row.kind == "pgd" and row.options["steps"] == steps and "restarts" not in row.options:
                found[row.source] = int(outcome.turned.sum())
        # In a tie, backpropagation: the one that differentiates what the model computes.
        return max(found, key=lambda source: (found[source], source in (OWN, BACKPROP)))

    def _transferable(self, at: AtTolerance) -> np.ndarray:
        """Examples as deep as PGD gets, without the early stop that leaves them at the boundary."""
        _, arrays = self._trace(at, BACKPROP if self.probe.blocks else OWN)
        return arrays["x_last"]

    def _trace(self, at: AtTolerance, source: str):
        """Plain PGD with every step kept, twice the published steps."""
        x, y = self.images.x[at.correct], self.images.y[at.correct]

        def compute():
            trace = traced.ascend(self.probe, x, y, **self._ascent(source, at.tol, 2 * self.protocol.steps))
            images = self.images.x.copy()
            images[at.correct] = trace.x_last
            return {}, {"losses": trace.losses, "turned": trace.turned, "x_last": images}

        return self._stage(f"traced PGD, {source}", at.tol, compute)

    def _ascent(self, source: str, tol: float | None, steps: int) -> dict[str, Any]:
        settings, forward = self._gradient(source, tol), self._forward(tol)
        # Losses and successes are the model's at the tested tolerance, whatever the gradient's source.
        own = source in (OWN, BACKPROP, attack_table.ADJOINT)
        return {
            "norm": self.protocol.norm,
            "eps": self.protocol.eps,
            "step_size": self.protocol.step_for(steps),
            "steps": steps,
            "settings": settings,
            "judged": None if own else forward,
        }

    def _transfer(self, at: AtTolerance, transferable: dict) -> list[Outcome]:
        def compute():
            outcomes = attack_table.transferred(
                self.probe, self.images.y, at.correct, at.tol, transferable
            )
            names = [outcome.name for outcome in outcomes]
            turned = np.array([outcome.turned for outcome in outcomes], bool).reshape(len(names), -1)
            return {"names": names}, {"turned": turned}

        values, arrays = self._stage("transfer", at.tol, compute, tols=self.tols)
        return [
            Outcome(name, frozenset({"transfer"}), at.correct, turned)
            for name, turned in zip(values["names"], arrays["turned"], strict=True)
        ]

    def _audit(self, at: AtTolerance) -> None:
        chosen = np.flatnonzero(at.correct)[:AUDITED]
        x, y = self.images.x[chosen], self.images.y[chosen]

        def compute():
            audit = gradient_audit.audit(
                self.probe, x, y, tol=at.tol, fine_tol=self.protocol.fine_tol, seed=self.protocol.seed
            )
            arrays = {"noise_change": audit.noise_change}
            for name in audit.sources:
                arrays[f"gradient/{name}"] = audit.gradients[name]
                arrays[f"difference/{name}"] = audit.difference_cosine[name]
                arrays[f"reproduced/{name}"] = audit.reproduced[name]
            return {"rows": audit.rows(), "step_changes": audit.step_changes}, arrays

        values, arrays = self._stage("gradient audit", at.tol, compute)
        at.audit = {**values, **arrays}

    def _indicate(self, at: AtTolerance) -> None:
        """Every indicator on the strongest gradient source, and on the published one where it differs."""
        published = attack_table.sources_of(self.probe, self.protocol, at.tol)[0]
        at.indicators = self._indicators_of(at, at.strongest, masking="masking", evaluation="evaluation")
        at.indicators += self._indicators_of_table(at)
        if published != at.strongest:
            at.indicators += self._indicators_of(at, published, masking="published", evaluation="published")

    def _indicators_of(self, at: AtTolerance, source: str, *, masking: str, evaluation: str) -> list:
        found = []
        # Gradients through another solver are not audited; backpropagation stands for them.
        audited = source if f"gradient/{source}" in at.audit else BACKPROP
        if masking == "masking" or audited != BACKPROP:
            found += [
                indicators.unavailable_gradients(at.audit[f"gradient/{audited}"], masking),
                indicators.irreproducible_gradients(at.audit[f"reproduced/{audited}"], masking),
                indicators.misleading_gradients(at.audit[f"difference/{audited}"], masking),
            ]
        if masking == "masking":
            found.append(indicators.unstable_loss(at.audit["noise_change"], masking))
        _, trace = self._trace(at, source)
        values, sweep = self._sweep(at, source)
        _, plant = self._plant(at, source)
        found += [
            indicators.loss_not_raised(trace["losses"], evaluation),
            indicators.incomplete_optimisation(trace["losses"], trace["turned"].any(axis=0), evaluation),
            indicators.silent_success(trace["turned"], evaluation),
            indicators.loss_falls_with_eps(sweep["losses"], evaluation),
            indicators.unbounded_attack_fails(sweep["unbounded"], evaluation),
            indicators.planted_missed(plant["found"][plant["planted"]], evaluation),
        ]
        suffix = "" if source == OWN else f" ({source})"
        return [dataclasses.replace(one, name=one.name + suffix) for one in found]

    def _indicators_of_table(self, at: AtTolerance) -> list:
        def turned(keep: Callable[[Outcome], bool]) -> np.ndarray:
            kept = [outcome.turned for outcome in at.outcomes if keep(outcome)]
            return np.any([np.zeros(len(at.correct), bool), *kept], axis=0)[at.correct]

        free = turned(lambda outcome: "gradient-free" in outcome.changes)
        transfer = turned(lambda outcome: "transfer" in outcome.changes)
        white_box = turned(lambda outcome: not {"gradient-free", "transfer"} & outcome.changes)
        published = turned(lambda outcome: not outcome.changes)
        found = [indicators.gradient_free_wins(free, white_box)]
        beats = indicators.gradient_free_wins(free, published, "published")
        found.append(dataclasses.replace(beats, name="gradient-free beats the published attack"))
        if self.probe.blocks:
            found.append(indicators.black_box_wins(transfer, white_box))
        own = BACKPROP if self.probe.blocks else OWN
        short, long = (self._pgd(at, own, steps) for steps in (2 * self.protocol.steps, self._long))
        found.append(indicators.more_steps_keep_helping(short.turned[at.correct], long.turned[at.correct]))
        return found

    @property
    def _long(self) -> int:
        return attack_table.BUDGETS[self.budget]["long"]

    def _pgd(self, at: AtTolerance, source: str, steps: int) -> Outcome:
        for row, outcome in zip(at.rows, at.outcomes, strict=False):
            same = row.kind == "pgd" and row.source == source and row.options["steps"] == steps
            if same and "restarts" not in row.options:
                return outcome
        raise KeyError(f"no PGD-{steps} through {source}")

    def _sweep(self, at: AtTolerance, source: str):
        """The loss reached at growing eps, and what an attack that may change everything turns."""
        chosen = np.flatnonzero(at.correct)[:AUDITED]
        x, y = self.images.x[chosen], self.images.y[chosen]
        everything = np.sqrt(x[0].size) if self.protocol.norm == "l2" else 1.0

        def reached(eps: float, steps: int) -> traced.Trace:
            ascent = {**self._ascent(source, at.tol, steps), "eps": eps, "step_size": 2.5 * eps / steps}
            return traced.ascend(self.probe, x, y, **ascent)

        def compute():
            radii = [min(everything, multiple * self.protocol.eps) for multiple in EPS_MULTIPLES]
            losses = [reached(eps, self.protocol.steps).losses.max(axis=0) for eps in radii]
            unbounded = reached(everything, UNBOUNDED_STEPS).found
            return {"eps": radii}, {"losses": np.stack(losses), "unbounded": unbounded}

        return self._stage(f"eps sweep, {source}", at.tol, compute)

    def _plant(self, at: AtTolerance, source: str):
        x = self.images.x[np.flatnonzero(at.correct)[:PLANTED]]

        def compute():
            ascent = self._ascent(source, at.tol, 2 * self.protocol.steps)
            del ascent["judged"]
            test = planted.run(
                self.probe, x, **ascent, forward=self._forward(at.tol), seed=self.protocol.seed
            )
            return {"by_chance": test.by_chance}, {"planted": test.planted, "found": test.found}

        return self._stage(f"planted examples, {source}", at.tol, compute)

    def _draw_surface(self, at: AtTolerance) -> None:
        # The same image at every tolerance: the first that all of them get right.
        image = int(np.flatnonzero(at.correct)[0]) if at.correct.any() else 0
        own = BACKPROP if self.probe.blocks else OWN
        source = attack_table.sources_of(self.probe, self.protocol, at.tol)[0]
        linf = self.protocol.eps * norms.unit(self.protocol.norm, self.images.x.shape[1:])
        if self.protocol.norm != "linf":
            linf /= np.sqrt(self.images.x[0].size)

        def compute():
            losses = {}
            for name in dict.fromkeys((source, own)):
                offsets, losses[name] = surface.loss_surface(
                    self.probe,
                    self.images.x[image],
                    int(self.images.y[image]),
                    eps=2 * linf,
                    settings=self._gradient(name, at.tol),
                    forward=self._forward(at.tol),
                )
            return {"image": image}, {"offsets": offsets, **{f"losses/{k}": v for k, v in losses.items()}}

        _, at.surface = self._stage("loss surface", at.tol, compute)

    def _travel(self, at: AtTolerance) -> None:
        chosen = np.flatnonzero(worst := verdict.worst_case(at.outcomes))[:TRAVELLED]
        x, y = self.images.x[chosen], self.images.y[chosen]
        adversarial = self._worst_images(at)[chosen]
        at.travel = []
        if not worst.any():
            self.step(f"no trajectories, {at.name}")
            return

        def compute():
            travels = trajectories.travel(self.probe, x, adversarial, y, tol=at.tol)
            arrays = {}
            for index, one in enumerate(travels):
                for field in ("times", "l2", "cosine", "relative", "labels"):
                    arrays[f"{index}/{field}"] = getattr(one, field)
            return {"layers": [one.layer for one in travels]}, arrays

        values, arrays = self._stage("trajectories", at.tol, compute, budget=self.budget)
        at.travel = [
            trajectories.Travel(layer, *(arrays[f"{index}/{field}"] for field in ("times", "l2", "cosine", "relative", "labels")))
            for index, layer in enumerate(values["layers"])
        ]

    def _worst_images(self, at: AtTolerance) -> np.ndarray:
        """For each image the example of the first row that turned it; the image itself if none did."""
        images = self.images.x.copy()
        for row in reversed(at.rows):
            turned = at.outcome(row.name).turned
            images[turned] = at.adversarial[row.name][turned]
        return images

    def _detect(self, at: AtTolerance) -> None:
        references = tuple(tol for tol in (self.tols[0], self.tols[-1]) if tol != at.tol)
        at.detection = []
        if not references:
            self.step(f"no detection, {at.name}")
            return
        correct = np.flatnonzero(at.correct)
        attacked = {
            row.name: at.adversarial[row.name][at.outcome(row.name).turned]
            for row in at.rows
            if row.name in (at.rows[0].name, "SPSA", f"PGD-{2 * self.protocol.steps}, {at.strongest}")
        }
        aware = correct[:AUDITED]

        def compute():
            rows, arrays = [], {}
            for score in detection.SCORES:
                detector = detection.Detector(score, at.tol, references)
                detector = detector.calibrated(self.probe, self.images.validation)
                for name, adversarial in attacked.items():
                    found = detection.detect(detector, self.probe, self.images.x[correct], adversarial)
                    arrays[f"{len(rows)}/fpr"], arrays[f"{len(rows)}/tpr"] = found.curve
                    rows.append(
                        {
                            "score": score,
                            "attack": name,
                            "images": len(adversarial),
                            "auc": found.auc,
                            "false_positive_rate": found.false_positive_rate,
                            "true_positive_rate": found.true_positive_rate,
                        }
                    )
                ascent = self._ascent(BACKPROP, at.tol, 2 * self.protocol.steps)
                del ascent["settings"], ascent["judged"]
                escaped = detection.evade(
                    detector, self.probe, self.images.x[aware], self.images.y[aware], **ascent
                )
                shares = {f"{weight:g}": float(trace.found.mean()) for weight, trace in escaped.items()}
                best = np.any([trace.found for trace in escaped.values()], axis=0)
                rows.append(
                    {
                        "score": score,
                        "attack": "knows the detector",
                        "images": len(aware),
                        "escaped_by_weight": shares,
                        "escaped": float(best.mean()) if len(best) else None,
                    }
                )
            return {"rows": rows, "references": references}, arrays

        values, arrays = self._stage("detection", at.tol, compute, references=references, budget=self.budget)
        for index, row in enumerate(values["rows"]):
            if f"{index}/fpr" in arrays:
                row = {**row, "fpr": arrays[f"{index}/fpr"], "tpr": arrays[f"{index}/tpr"]}
            at.detection.append(row)
