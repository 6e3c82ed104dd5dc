"""Names that tell apart the results shown together, and say no more than that takes."""

from collections.abc import Iterable, Sequence
from typing import Any

from tfode_adv.evaluation.results import Result, grouped
from tfode_adv.rendering.tables import number

# A step that follows eps is no variant of an attack.
_FOLLOWS_EPS = ("step_size",)


class Names:
    """What the results of one report are called.

    A model on two data sets or splits, or integrated by two solvers, is two subjects: their records are never
    joined. An attack with other hyperparameters is another attack.

    Args:
        results: all that are shown together; wherever two of them differ, the names say in what.
    """

    def __init__(self, results: Iterable[Result]) -> None:
        results = list(results)
        self._several_data = len({_data(result) for result in results}) > 1
        by_model = grouped(results, lambda result: result.model)
        self._several_solvers = {model for (model,), group in by_model if len(set(map(solver, group))) > 1}
        self._telling = {attack: _telling(group) for (attack,), group in grouped(results, lambda r: r.attack)}

    def model(self, result: Result) -> str:
        """The run, with its images where there are several kinds."""
        return f"{result.model}, {_data(result)}" if self._several_data else result.model

    def subject(self, result: Result) -> str:
        """What was attacked: the model, on its images, under its solver."""
        several = result.model in self._several_solvers or result.configuration.random_tol is not None
        return f"{self.model(result)}, {solver(result)}" if several else self.model(result)

    def attack(self, result: Result) -> str:
        """The attack with its steps, and with the hyperparameters in which it differs from others of its name."""
        details = _details(result)
        words = [_words(name, details[name]) for name in self._telling[result.attack] if name in details]
        return f"{result.attack} ({', '.join(words)})" if words else result.attack


def solver(result: Result) -> str | None:
    """What integrates the model, with its steps if they are fixed and its other options, or the random tolerances."""
    cell = result.configuration
    if cell.random_tol is not None:
        return f"{cell.solver} (τ drawn from {' to '.join(map(number, cell.random_tol))})"
    said = ([] if cell.num_steps is None else [f"{cell.num_steps} steps"]) + cell.others()
    return f"{cell.solver} ({', '.join(said)})" if said else cell.solver


def _data(result: Result) -> str:
    return f"{result.configuration.dataset} ({result.configuration.split})"


def _details(result: Result) -> dict[str, Any]:
    """What may tell an attack from others of its name; the number of steps is in the name."""
    cell = result.configuration
    return {name: value for name, value in cell.hyperparameters.items() if name != "steps"} | {"seed": cell.seed}


def _telling(group: Sequence[Result]) -> list[str]:
    """The hyperparameters that differ within the results of one attack."""
    seen: dict[str, dict[Any, set[str]]] = {}
    for name in dict.fromkeys(name for result in group for name in _details(result)):
        for result in group:
            cell = result.configuration
            budget = (cell.dataset, cell.norm, cell.eps) if name in _FOLLOWS_EPS else None
            seen.setdefault(name, {}).setdefault(budget, set()).add(repr(_details(result).get(name)))
    return [name for name, by_budget in seen.items() if any(len(values) > 1 for values in by_budget.values())]


def _words(name: str, value: Any) -> str:
    words = name.replace("_", " ")
    if isinstance(value, bool):
        return words if value else f"no {words}"
    return f"{words} {number(value) if isinstance(value, float) else value}"
