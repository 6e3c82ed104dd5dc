"""From lists of settings to the configurations that they span, each checked and none twice."""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tfode_adv import attacks, solvers
from tfode_adv.errors import UsageError, check_choice
from tfode_adv.evaluation.configuration import OTHERS, SOLVED, Configuration
from tfode_adv.solvers import block_options

# Hyperparameters with a place of their own in a configuration, or no influence on a result.
_APART = ("norm", "eps", "seed", "source", "batch_size")
# What holds for gradients alone.
_GRADIENT = [each for each in block_options.recorded() if each.backward] + block_options.of_gradients()
_Spans = dataclasses.make_dataclass("_Spans", [(each.span, Any, None) for each in SOLVED], frozen=True, kw_only=True)


@dataclasses.dataclass(frozen=True)
class Axes(_Spans):
    """What a grid spans. None takes what is published for the data set, or the model's or attack's own.

    Attributes:
        attacks: names; `"none"` is the clean pass.
        norms, eps: each attack is run at all of them; a norm that an attack lacks is left out.
        gradients: how ODE blocks are differentiated; no matter for attacks without gradients.
        solvers, tols: how the model's ODE blocks are solved; no matter for a model without any.
        num_steps: how many steps the fixed-step solvers take.
        gradient_tol, gradient_solver, gradient_num_steps, gradient_precision: what gradients are taken through.
        random_tol: lowest and highest tolerance drawn, in place of `tols` (`models.RandomSolver`).
        eot: draws a gradient is averaged over.
        seed: where the attacks' random numbers start.
        hyperparameters: given to every attack that has them.

    Raises:
        UsageError: for an unknown name, a hyperparameter that none of the attacks has or that is an axis of
            its own, a fixed-step solver without its number of steps to take a gradient through, or an interval of
            tolerances that is none, or beside other tolerances.
    """

    attacks: Sequence[str] = ("pgd",)
    norms: Sequence[str] | None = None
    eps: Sequence[float] | None = None
    random_tol: Sequence[float] | None = None
    eot: int | None = None
    seed: int = 0
    hyperparameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        known = attacks.available()
        if not self.attacks:
            raise UsageError(f"no attack is named; choose from none, {', '.join(known)}")
        for given in self.hyperparameters:
            if given in _APART:
                raise UsageError(f"options holds {given}, which has a place of its own")
            if given == "targeted":
                raise UsageError("options holds targeted, but an evaluation has no classes to reach, only true labels")
        for each in SOLVED:
            for value in self.values(each):
                each.check(value)
        for name in self.attacks:
            check_choice("attack", name, ["none", *known])
        self._check_meant([name for name in self.attacks if name != "none"], known)
        through = self.gradient_solver
        if through:
            _check_steps_of(self, [through])
            if not solvers.is_adaptive(through) and self.gradient_num_steps is None:
                raise UsageError(
                    f"gradient_solver is {through}, which takes fixed steps: say how many (gradient_num_steps)"
                )
        if self.random_tol is not None:
            self._check_random_tol(list(self.random_tol))

    def values(self, option: block_options.Option) -> Sequence[Any]:
        """Those given of an option of the solve, none where its own are to be taken."""
        given = getattr(self, option.span)
        return (given or ()) if option.axis else () if given is None else (given,)

    def _of_gradients(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.span) for each in _GRADIENT} | {"eot": self.eot}

    def _check_meant(self, names: list[str], known: Mapping[str, Any]) -> None:
        """Raises UsageError for a setting that means something to none of these attacks."""
        if not names:
            budget = {"norm": self.norms, "eps": self.eps}
            for name, value in {**budget, **self._of_gradients(), **self.hyperparameters}.items():
                if value is not None:
                    raise UsageError(f"{name} is {_shown(value)}, but attack none, the clean pass, takes none")
            return
        for given in self.hyperparameters:
            if not any(given in known[name].defaults for name in names):
                raise UsageError(f"{', '.join(names)} takes no {given}; --attack=help lists what each takes")
        if not any(map(_differentiates, names)):
            for name, value in self._of_gradients().items():
                if value is not None:
                    raise UsageError(f"{name} is {_shown(value)}, but {', '.join(names)} takes no gradient")

    def _check_random_tol(self, interval: list[float]) -> None:
        if len(interval) != 2 or not 0 < interval[0] <= interval[1]:
            raise UsageError(f"random_tol is {interval}, but must be LOW,HIGH with 0 < LOW <= HIGH")
        for name in ("tols", "gradient_tol"):
            if getattr(self, name) is not None:
                raise UsageError(f"random_tol draws the tolerance: leave out {name.removesuffix('s')}")


def attack_grid(axes: Axes, dataset: str) -> list[Configuration]:
    """Every attack at every norm, eps and gradient, its settings checked; the model is still open.

    Raises:
        UsageError: for a norm that an attack lacks, or a value out of range.
    """
    grid = []
    for name in axes.attacks:
        if name == "none":
            grid.append(Configuration("", dataset))
        else:
            grid += _one_attack(axes, dataset, name, attacks.available()[name])
    return grid


def model_grid(grid: Iterable[Configuration], axes: Axes, blocks: Sequence[Any]) -> list[Configuration]:
    """The attacks' grid at every solver and tolerance that the model has a use for.

    What there is no use for is None: every solver setting without ODE blocks, the tolerance with a
    fixed-step solver. So one result is never computed under two names.

    Args:
        grid: from `attack_grid`.
        axes: the lists of settings.
        blocks: the model's ODE blocks; the first one's settings are the defaults.
    """
    if not blocks and axes.random_tol:
        raise UsageError(f"random_tol is {list(axes.random_tol)}, but the model has no ODE blocks")
    if not blocks:
        nothing = dict.fromkeys([each.name for each in SOLVED] + ["eot"])
        return _each_once(dataclasses.replace(configuration, **nothing) for configuration in grid)
    own, found = blocks[0], []
    integrators = axes.solvers or [block_options.name_of(own.solver)]
    for configuration, solver, others in itertools.product(grid, integrators, _others(axes)):
        differentiates = _differentiates(configuration.attack)
        settings = {each.name: value for each, value in others if differentiates or not each.backward}
        settings |= {"solver": solver}
        if differentiates:
            settings["gradient"] = _gradient(
                solver, configuration.gradient, block_options.name_of(own.gradient), axes.gradients
            )
        if axes.random_tol:
            found.append(dataclasses.replace(configuration, **settings, random_tol=_interval(axes, solver)))
        elif solvers.is_adaptive(solver):
            tols = axes.tols or [float(own.tol)]
            found += [dataclasses.replace(configuration, **settings, tol=tol) for tol in tols]
        else:
            steps = axes.num_steps or _own_steps(own, solver)
            found.append(dataclasses.replace(configuration, **settings, num_steps=steps))
    solvers.check_num_steps(axes.num_steps, integrators)
    if axes.gradient_solver is None:
        _check_steps_of(axes, integrators)
    return _each_once(_meant(configuration) for configuration in found)


def _others(axes: Axes) -> list[tuple[tuple[block_options.Option, Any], ...]]:
    """Every combination of the options that are spanned as they are given, None where the model's own are taken."""
    return list(itertools.product(*([(each, value) for value in axes.values(each) or [None]] for each in OTHERS)))


def _check_steps_of(axes: Axes, through: Sequence[str]) -> None:
    """Raises UsageError for steps of a gradient that every solver of `through` chooses, or a tolerance none has."""
    if axes.gradient_num_steps is not None and all(map(solvers.is_adaptive, through)):
        raise UsageError(
            f"gradient_num_steps is {axes.gradient_num_steps}, but {', '.join(through)} chooses its own steps"
        )
    if axes.gradient_tol is not None and not any(map(solvers.is_adaptive, through)):
        raise UsageError(f"gradient_tol is {axes.gradient_tol:g}, but {', '.join(through)} takes fixed steps")


def _meant(configuration: Configuration) -> Configuration:
    """The same, less the one of steps and tolerance that the gradient's solver does not take."""
    adaptive = solvers.is_adaptive(configuration.gradient_solver or configuration.solver)
    return dataclasses.replace(configuration, **{"gradient_num_steps" if adaptive else "gradient_tol": None})


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _each_once(grid: Iterable[Configuration]) -> list[Configuration]:
    return list({configuration.digest: configuration for configuration in grid}.values())


def _gradient(solver: str, asked: str | None, own: str, all_asked: Sequence[str] | None) -> str:
    """How the gradient is taken; stock TFP knows the adjoint alone, whatever a block is set to."""
    if solver != "tfp":
        return asked or own
    if all_asked and "adjoint" not in all_asked:
        raise UsageError(f"gradient is {', '.join(all_asked)}, but must be adjoint for solver tfp")
    return "adjoint"


def _interval(axes: Axes, solver: str) -> tuple[float, float]:
    if solver == "tfp" or not solvers.is_adaptive(solver):
        raise UsageError(f"solver is {solver}, but random_tol needs one that takes a tolerance for each image")
    return tuple(axes.random_tol)


def _own_steps(block: Any, solver: str) -> int:
    if solver != block_options.name_of(block.solver):
        raise UsageError(f"solver is {solver}, which takes fixed steps: say how many (num_steps)")
    return block.num_steps or 1


def _one_attack(axes: Axes, dataset: str, name: str, known: attacks.registry.Description):
    given = {key: value for key, value in axes.hyperparameters.items() if key in known.defaults}
    found = []
    gradients: Sequence[str | None] = [None]
    through = {}
    if _differentiates(name):
        gradients = axes.gradients or [None]
        through = {"eot": axes.eot} | {each.name: getattr(axes, each.span) for each in block_options.of_gradients()}
    for norm in _norms(name, known.norms, axes.norms):
        for eps, gradient in itertools.product(axes.eps or [None], gradients):
            steps = given.get("steps")
            # One that is no number is refused, by its name, once the attack is made.
            steps = steps if isinstance(steps, int) else None
            published = attacks.defaults.hyperparameters(name, dataset, norm, eps, steps)
            values = {**published, **given}
            budget = {key: values.pop(key) for key in ("norm", "eps")}
            settings = {**budget, **through, "gradient": gradient, "seed": axes.seed, "hyperparameters": values}
            found.append(_resolved(Configuration("", dataset, attack=name, **settings)))
    return found


def _resolved(configuration: Configuration) -> Configuration:
    """The configuration with every hyperparameter of its attack, defaults included."""
    from tfode_adv.evaluation.subject import make_attack

    attack = make_attack(configuration)
    values = {
        field.name: getattr(attack, field.name)
        for field in dataclasses.fields(attack)
        if field.init and field.name not in _APART
    }
    return dataclasses.replace(configuration, hyperparameters=json.loads(json.dumps(values)))


def _differentiates(attack: str) -> bool:
    return attack != "none" and "source" in attacks.available()[attack].defaults


def _norms(name: str, has: Sequence[str], asked: Sequence[str] | None) -> Sequence[str]:
    if asked is None:
        return ["linf"] if "linf" in has else [has[0]]
    found = [norm for norm in asked if norm in has]
    if not found:
        raise UsageError(f"norm is {', '.join(asked)}, but must be one of: {', '.join(has)} for {name}")
    return found
