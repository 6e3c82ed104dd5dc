"""The methods: each a table and a name."""

import inspect
from collections.abc import Sequence
from typing import Any

from tfode_adv.errors import UsageError, check_choice
from tfode_adv.solvers import tableaus
from tfode_adv.solvers.solver import RungeKuttaSolver
from tfode_adv.solvers.tfp_interface import DormandPrince, Solver, tensorflow_probability


class Dopri5(RungeKuttaSolver, DormandPrince):
    """Dormand and Prince's method of order 5(4), dense output of order 4 inside a step; adaptive."""

    tableau = tableaus.DOPRI5


class Bosh3(RungeKuttaSolver):
    """Bogacki and Shampine's method of order 3(2), cubic Hermite dense output; adaptive."""

    tableau = tableaus.BOSH3


class Heun2(RungeKuttaSolver):
    """Heun's method of order 2(1), cubic Hermite dense output; adaptive."""

    tableau = tableaus.HEUN2


class Euler(RungeKuttaSolver):
    """Euler's method, order 1; `num_steps` equal steps."""

    tableau = tableaus.EULER


class Midpoint(RungeKuttaSolver):
    """The explicit midpoint method, order 2; `num_steps` equal steps."""

    tableau = tableaus.MIDPOINT


class RK4(RungeKuttaSolver):
    """The classical method of order 4; `num_steps` equal steps."""

    tableau = tableaus.RK4


class Kutta38(RungeKuttaSolver):
    """Kutta's 3/8 rule, order 4 (the "rk4" of torchdiffeq); `num_steps` equal steps."""

    tableau = tableaus.KUTTA38


METHODS: dict[str, type[RungeKuttaSolver]] = {
    cls.tableau.name: cls for cls in (Dopri5, Bosh3, Heun2, Euler, Midpoint, RK4, Kutta38)
}
STOCK = "tfp"


def available() -> tuple[str, ...]:
    """Names that `get` knows: "tfp" is `tfp.math.ode.DormandPrince` as it is, the others are ours."""
    return (STOCK, *METHODS)


def is_adaptive(name: str | RungeKuttaSolver) -> bool:
    """Whether a solver, or the method called `name`, chooses its steps by a tolerance (else by `num_steps`).

    Raises:
        UsageError: if there is no such method.
    """
    if isinstance(name, RungeKuttaSolver):
        return name.tableau.adaptive
    check_choice("solver", name, available())
    return name == STOCK or METHODS[name].tableau.adaptive


def check_num_steps(num_steps: int | None, names: Sequence[str]) -> None:
    """Checks that some method of `names` takes `num_steps`, if it is given.

    Raises:
        UsageError: if each chooses its own steps, or there is no such method.
    """
    if num_steps is not None and all(is_adaptive(name) for name in names):
        raise UsageError(f"num_steps is {num_steps}, but {', '.join(names)} chooses its own steps")


def get(name: str, **options: Any) -> Solver:
    """The solver called `name`, with its constructor's `options` (`rtol`, `atol`, `num_steps`, `gradient`, ...).

    Raises:
        UsageError: if there is no such method or option (stock TFP takes its own alone), or one is out of range.
        RunError: for "tfp", where TensorFlow Probability cannot be imported.
    """
    check_choice("solver", name, available())
    method = METHODS.get(name)
    if name == STOCK:
        method = tensorflow_probability(f"solver={STOCK!r}").math.ode.DormandPrince
    known = [option for option in inspect.signature(method.__init__).parameters if option != "self"]
    for option in options:
        check_choice(f"option of {name}", option, known)
    return method(**options)
