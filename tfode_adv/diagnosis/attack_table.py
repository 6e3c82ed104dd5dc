"""Many attacks at equal eps, and the worst case per image over all of them.

Carlini et al. (2019, section 4.3): the robust accuracy to quote is the share of images that no attack
turned, each image judged on its own. The rows differ from the published attack in one thing at a time
wherever possible, so that `verdict.attribute` can say which difference took an image.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from tfode_adv import attacks
from tfode_adv.analysis.verdict import Outcome
from tfode_adv.attacks import norms
from tfode_adv.diagnosis.budgets import BUDGETS
from tfode_adv.diagnosis.probe import Probe
from tfode_adv.errors import UsageError, check_choice
from tfode_adv.solvers import is_adaptive
from tfode_adv.solvers.names import available as available_solvers
from tfode_adv.solvers.names import check_num_steps

OWN, BACKPROP, STEPS, ADJOINT = "own", "backprop", "backprop_steps", "adjoint"
# Ways round a gradient that is hidden: a model to differentiate in the attacked one's place, or a mean of gradients.
AVERAGED, STRAIGHT, STUDENT, TWIN, BYPASS = "averaged", "straight through", "student", "twin", "without the ODE"
AVERAGES = 16
# How many times as many runs of a randomised model as other attacks see are averaged by those on what these left.
MORE_RUNS = 4
# Runs of a randomised model by which a success must hold: of twenty attacks one is lucky in most of fifteen runs where
# a third of all runs err.
SECOND_LOOK = 101
DETOURS = (TWIN, BYPASS, STRAIGHT, STUDENT, AVERAGED)
# The fewest steps of an attack of ours: what is published may take a single one, and is no measure for the others.
FEWEST_STEPS = 10
# Beyond so many steps, an attack on a model without ODE blocks is compiled.
MANY_STEPS = 100
FIXED, FINE = "fixed step", "fine tolerance"
FIXED_SOLVER = {"solver": "rk4", "num_steps": 8}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The published attack, against which all others are held.

    Attributes:
        norm, eps, step_size, steps: PGD's, without random start, stopped at an image's first success.
        gradient: through which it was published: "adjoint" (WIFS 2019), "backprop_steps" (MSML 2022) or
            "backprop"; means nothing for a model without ODE blocks.
        fine_tol: the tolerance of the rows that differentiate through an accurate solve.
        seed: where every attack's random numbers start.
        solver, num_steps: how ODE blocks were solved where the attack was published, to attack and to test, and its
            number of steps if they are fixed; None: as the model is deployed.
    """

    norm: str
    eps: float
    step_size: float
    steps: int = 10
    gradient: str = ADJOINT
    fine_tol: float = 1e-4
    seed: int = 0
    solver: str | None = None
    num_steps: int | None = None

    def __post_init__(self):
        check_choice("published gradient", self.gradient, (BACKPROP, STEPS, ADJOINT))
        if self.solver is None and self.num_steps is not None:
            raise UsageError(f"the attacked num_steps is {self.num_steps}, but no solver is named that takes them")
        if self.solver is not None:
            check_choice("attacked solver", self.solver, available_solvers())
            check_num_steps(self.num_steps, (self.solver,))
            if self.num_steps is None and not is_adaptive(self.solver):
                raise UsageError(
                    f"attacked solver is {self.solver}, which takes fixed steps: say how many (attacked_num_steps)"
                )

    @property
    def attacked_words(self) -> str:
        """The `solver` named, in words."""
        return f"{self.solver}" + ("" if self.num_steps is None else f", {self.num_steps} steps")

    @property
    def own_steps(self) -> int:
        """Steps of the shortest attack of ours: as many as the published one's, or ten."""
        return max(self.steps, FEWEST_STEPS)

    def step_for(self, steps: int) -> float:
        """A step for more steps: 2.5 eps / steps (Madry et al. 2018), not above a published one that reaches eps."""
        full = 2.5 * self.eps / steps
        return min(self.step_size, full) if self.steps * self.step_size >= self.eps else full


@dataclasses.dataclass(frozen=True)
class Row:
    """One attack of the table.

    Attributes:
        name: shown; kind: its name in `tfode_adv.attacks`; options: its hyperparameters beyond norm and eps.
        source: whence its gradient: a key of `settings_of`, or "none".
        changes: in what it differs from the published attack: keys of `verdict.CHANGES`.
        costly: run on the images that the published attack left, and on no more than the budget says.
        follows: run on the images that are left, if attacks along its source, or those without gradients for "none",
            turned any that the others did not: what finds something is tried harder.
        last: run on the images that are left, after all others.
        runs: how many times as many runs of a randomised model its gradient is the mean of.
    """

    name: str
    kind: str
    options: dict[str, Any]
    source: str
    changes: frozenset[str]
    costly: bool = False
    follows: bool = False
    last: bool = False
    runs: int = 1

    @property
    def direct(self) -> bool:
        """Whether this follows a gradient as it is from the image itself, by whatever loss and steps.

        Momentum averages it over steps, and from random starts it is seen at many points, which is half of an average.
        """
        return self.source != "none" and self.kind != "mim" and "restarts" not in self.options


def settings_of(source: str, tol: float | None, fine_tol: float) -> dict[str, Any]:
    """The solver settings through which a source's gradient is taken."""
    return {
        OWN: {},
        BACKPROP: {"gradient": BACKPROP, "tol": tol},
        STEPS: {"gradient": STEPS, "tol": tol},
        ADJOINT: {"gradient": ADJOINT, "tol": tol},
        FIXED: {"gradient": BACKPROP, **FIXED_SOLVER},
        FINE: {"gradient": BACKPROP, "tol": min(fine_tol, tol) if tol else fine_tol},
    }[source]


def sources_of(probe: Probe, protocol: Protocol, tol: float | None = None) -> list[str]:
    """The gradient sources of a model, the published one first; FINE only where the solve is not."""
    if not probe.blocks:
        return [OWN]
    others = [source for source in (BACKPROP, STEPS, ADJOINT, FIXED, FINE) if source != protocol.gradient]
    if (tol is None and probe.draws == 1) or (tol is not None and tol <= protocol.fine_tol):
        others.remove(FINE)
    return [protocol.gradient, *others]


def longest(protocol: Protocol, budget: str) -> int:
    """Steps of the longest PGD: more than the published attack's and their double, which have rows of their own."""
    return max(BUDGETS[budget]["long"], 4 * protocol.own_steps)


def rows_of(probe: Probe, protocol: Protocol, budget: str, tol: float | None = None) -> list[Row]:
    """The rows of the table for a model, the published attack first.

    Raises:
        UsageError: if the budget is not a key of `BUDGETS`.
    """
    sizes = BUDGETS[check_choice("budget", budget, BUDGETS)]
    sources = sources_of(probe, protocol, tol)
    published, own = sources[0], OWN if not probe.blocks else BACKPROP
    steps, own_steps = protocol.steps, protocol.own_steps

    def row(name, kind, options, source, *changes, **when):
        hidden = source not in (published, "none") or (probe.draws > 1 and len(rows) > 0)
        changes = {*changes, *({"gradient"} if hidden and source != "none" else ())}
        label = name if source in (OWN, "none") else f"{name}, {source}"
        return Row(label, kind, options, source, frozenset(changes), **when)

    def pgd(count, source, **options):
        size = protocol.step_size if count == steps else protocol.step_for(count)
        changes = () if count == steps and not options else ("steps",)
        name = f"PGD-{count}" + (f" x {options['restarts']}" if "restarts" in options else "")
        return row(name, "pgd", {"steps": count, "step_size": size, **options}, source, *changes)

    rows: list[Row] = []
    for source in sources:
        rows.append(pgd(steps, source))
    if probe.draws > 1:
        # The published attack takes the gradient of one run; the others see the mean of many.
        rows.append(dataclasses.replace(pgd(steps, own), name=f"PGD-{steps}, mean of {probe.draws} runs"))
    both = list(dict.fromkeys((own, published)))
    if own_steps > steps:
        rows += [pgd(own_steps, source) for source in sources]
    rows += [pgd(2 * own_steps, source) for source in (sources if sizes["every_source"] else both)]
    rows += [pgd(longest(protocol, budget), source) for source in (both if sizes["every_source"] else [own])]
    rows.append(pgd(2 * own_steps, own, restarts=sizes["restarts"], random_start=True))
    cw = "cwlinf" if protocol.norm == "linf" else "cw"
    rows += [
        row("MIM", "mim", {"steps": 2 * own_steps, "step_size": protocol.step_for(2 * own_steps)}, own, "steps"),
        row("APGD", "apgd", sizes["apgd"], own, "steps"),
        row("APGD-DLR", "apgd_dlr", sizes["apgd"], own, "steps", "loss"),
        row("CW", cw, sizes[cw], own, "loss"),
        row("SPSA", "spsa", sizes["spsa"], "none", "gradient-free", costly=True),
        row("Square", "square", sizes["square"], "none", "gradient-free", costly=True),
    ]
    for source in (one for one in DETOURS if one in probe.detours):
        rows.append(pgd(own_steps, source))
        rows.append(row("APGD", "apgd", sizes["detour"], source, "steps", follows=True))
        rows.append(row("APGD-DLR", "apgd_dlr", sizes["detour"], source, "steps", "loss", follows=True))
        rows.append(row("APGD-T", "apgd_t", sizes["detour"], source, "steps", "loss", follows=True))
    longer = {"steps": 5 * sizes["square"]["steps"]}
    rows.append(row("Square, longer", "square", longer, "none", "gradient-free", "steps", follows=True))
    return rows + _last_rows(row, probe, sizes, own)


def _last_rows(row: Callable[..., Row], probe: Probe, sizes: dict[str, Any], own: str) -> list[Row]:
    """What is tried on the images that all others left: of a randomised model, the mean of many more runs; where a
    gradient looks hidden, decisions alone, which take many queries.
    """
    if probe.draws > 1:
        along = [own, *(one for one in (TWIN, STRAIGHT) if one in probe.detours)]
        kinds = {"APGD": ("apgd", ("steps",)), "APGD-DLR": ("apgd_dlr", ("steps", "loss"))}
        return [
            row(
                f"{name}, {MORE_RUNS * probe.draws} runs",
                kind,
                sizes["detour"],
                source,
                *changes,
                last=True,
                runs=MORE_RUNS,
            )
            for source in along
            for name, (kind, changes) in kinds.items()
        ]
    if STUDENT not in probe.detours:
        return []
    rays = sizes["rays"]
    return [
        row("RayS", "rays", rays, "none", "gradient-free", last=True),
        row("RayS", "rays", {**rays, "restarts": 3}, STUDENT, "gradient-free", "steps", last=True),
    ]


def run_row(
    row: Row,
    probe: Probe,
    protocol: Protocol,
    x: np.ndarray,
    y: np.ndarray,
    tried: np.ndarray,
    tol: float | None,
) -> tuple[Outcome, np.ndarray, float]:
    """Runs one attack at one tolerance on the images `tried` [N] bool.

    Returns:
        The outcome; the images [N, ...], untouched where not tried; the mean number of queries.
    """
    kind = attacks.registry.kind(row.kind)
    options = {**row.options, **_sizes(row, protocol, x.shape[1:])}
    source = _source(row.source, probe, protocol, tol)
    if row.runs > 1:
        source = attacks.EOT(row.runs, source or attacks.Source())
    if source is not None:
        options["source"] = source
    # A randomised model is attacked through its mean of runs, but as published; and no lucky step ends an attack.
    published = not row.changes
    draws = 1 if published else probe.draws
    if probe.draws > 1 and "early_stop" in {field.name for field in dataclasses.fields(kind)}:
        options["early_stop"] = False
    attack = attacks.get(
        row.kind,
        norm=protocol.norm,
        eps=protocol.eps,
        seed=protocol.seed,
        batch_size=probe.batch_size,
        **options,
    )
    gradient = row.source if row.source in (STEPS, ADJOINT) else BACKPROP
    turned, images, queries = np.zeros(len(x), bool), x.copy(), 0.0
    chosen = np.flatnonzero(tried)
    if len(chosen):
        # A gradient's copies or targets count as steps.
        many = attack.limit * attack.rounds(10) * attack.source.draws > MANY_STEPS
        attacked = probe.function(draws=draws, tol=tol, gradient=gradient, many_steps=many)
        result = attack(attacked, x[chosen], y[chosen], indices=chosen)
        # An attack that minimises the distance may succeed outside the ball; that is no success here.
        within = result.distance <= protocol.eps * (1 + 1e-5) + 1e-6
        success = result.success
        if probe.draws > 1:
            success = ~probe.mostly(result.x_adv, y[chosen], tol=tol)
            if success.any():
                success[success] = ~probe.mostly(result.x_adv[success], y[chosen][success], runs=SECOND_LOOK, tol=tol)
        turned[chosen], images[chosen] = success & within, result.x_adv
        queries = float(result.queries.mean())
    return Outcome(row.name, row.changes, tried, turned), images, queries


def left_elsewhere(probe: Probe, protocol: Protocol, x: np.ndarray, y: np.ndarray, tol: float | None) -> np.ndarray:
    """[N] bool: images that the published attack leaves where it was published, on another solver than is deployed."""
    tol = tol if is_adaptive(protocol.solver) else None
    solved = {"solver": protocol.solver, "num_steps": protocol.num_steps, "tol": tol, "gradient": protocol.gradient}
    sizes = {"step_size": protocol.step_size, "steps": protocol.steps, "seed": protocol.seed}
    attack = attacks.get("pgd", norm=protocol.norm, eps=protocol.eps, batch_size=probe.batch_size, **sizes)
    return ~attack(probe.function(draws=1, **solved), x, y).success


def _source(name: str, probe: Probe, protocol: Protocol, tol: float | None) -> attacks.Source | None:
    """Where an attack takes a row's gradient from; None: from what it attacks."""
    if name in (FIXED, FINE):
        settings = settings_of(name, tol, protocol.fine_tol)
        # Of a surrogate's failed solve, the last good state's gradient is better than none.
        return attacks.Through(twin=probe.function(answering=False, draws=1, **settings))
    if name == AVERAGED:
        return attacks.Smoothed(protocol.eps / 2, protocol.norm, AVERAGES)
    if name in probe.detours:
        # Its loss too: the model's own may be as flat as its gradient.
        runs = probe.draws if name in (TWIN, STRAIGHT) else 1
        return attacks.Transfer(probe.detours[name](), attacks.EOT(runs) if runs > 1 else attacks.Source())
    return None


def _sizes(row: Row, protocol: Protocol, shape: tuple[int, ...]) -> dict[str, float]:
    """What an attack measures in pixel values, in proportion to the radius."""
    if row.kind != "spsa":
        return {}
    pixel = pixel_size(protocol.norm, protocol.eps, shape)
    return {"delta": pixel / 4, "learning_rate": pixel / 5}


def pixel_size(norm: str, eps: float, shape: tuple[int, ...]) -> float:
    """The change of every pixel that makes a perturbation of length `eps`."""
    return eps * norms.unit(norm, shape) / (1.0 if norm == "linf" else float(np.sqrt(np.prod(shape))))


def transferred(probe: Probe, y: np.ndarray, correct: np.ndarray, tol: float, examples: dict) -> list[Outcome]:
    """What examples made at other tolerances do at `tol`.

    Args:
        examples: by the tolerance they were made at, (which images [N] bool, adversarial images [N, ...]).
    """
    outcomes = []
    for other, (made, adversarial) in examples.items():
        if other != tol:
            tried = correct & made
            predicted = probe.predict(adversarial, tol=tol)
            turned = tried & (predicted != y) & (predicted >= 0)
            outcomes.append(Outcome(f"transfer from τ = {other:g}", frozenset({"transfer"}), tried, turned))
    return outcomes


def costly_images(correct: np.ndarray, published: Outcome, budget: str) -> np.ndarray:
    """[N] bool: the images that gradient-free attacks are run on.

    "full": all that are classified correctly; "quick": those among them that the published attack left,
    which are the ones in question, up to the budget's number.
    """
    limit = BUDGETS[budget]["gradient_free"]
    if limit is None:
        return correct
    chosen = np.flatnonzero(correct & ~published.turned)[:limit]
    return np.isin(np.arange(len(correct)), chosen)


def power_images(correct: np.ndarray, turned: np.ndarray, budget: str) -> np.ndarray:
    """[N] bool: images that gradients turned, on which attacks without gradients show what they can."""
    chosen = np.flatnonzero(correct & turned)[: BUDGETS[budget]["power"]]
    return np.isin(np.arange(len(correct)), chosen)
