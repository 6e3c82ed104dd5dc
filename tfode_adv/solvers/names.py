"""The names that say how an ODE is solved, and what may stand in their place: what flags need, without TensorFlow."""

from collections.abc import Sequence
from typing import Any

from tfode_adv.errors import UsageError, check_choice
from tfode_adv.solvers.tableaus import TABLEAUS, Tableau

STOCK = "tfp"
# Name to class in `gradients.py`.
GRADIENTS = {"backprop": "Backprop", "backprop_steps": "BackpropSteps", "adjoint": "Adjoint"}
CHECKPOINTS = ("auto", "steps", "none")
ENDPOINTS = ("interpolate", "clip")
ON_FAILURE = ("raise", "status")
PRECISIONS = ("float32", "bfloat16", "float16")


class SolverObject:
    """A solver of ours, in the place of a method's name."""

    tableau: Tableau


class GradientObject:
    """A way to differentiate a solve, in the place of its name."""

    name: Any


def available() -> tuple[str, ...]:
    """Names that `get` knows: "tfp" is `tfp.math.ode.DormandPrince` as it is, the others are ours."""
    return (STOCK, *TABLEAUS)


def is_adaptive(name: str | SolverObject) -> bool:
    """Whether a solver, or the method called `name`, chooses its steps by a tolerance (else by `num_steps`).

    Raises:
        UsageError: if there is no such method.
    """
    if isinstance(name, SolverObject):
        return name.tableau.adaptive
    check_choice("solver", name, available())
    return name == STOCK or TABLEAUS[name].adaptive


def check_num_steps(num_steps: int | None, names: Sequence[str]) -> None:
    """Checks that some method of `names` takes `num_steps`, if it is given.

    Raises:
        UsageError: if each chooses its own steps, or there is no such method.
    """
    if num_steps is not None and all(is_adaptive(name) for name in names):
        raise UsageError(f"num_steps is {num_steps}, but {', '.join(names)} chooses its own steps")
