"""The methods: each a table and a name."""

import inspect
from typing import Any

from tfode_adv.errors import check_choice
from tfode_adv.solvers import tableaus
from tfode_adv.solvers.names import STOCK, available
from tfode_adv.solvers.solver import RungeKuttaSolver
from tfode_adv.solvers.tfp_interface import DormandPrince, Solver, stock_method


class Dopri5(RungeKuttaSolver, DormandPrince):
    """Dormand and Prince's method of order 5(4), dense output of order 4 inside a step; adaptive."""

    tableau = tableaus.DOPRI5


class Dopri5CAS(RungeKuttaSolver):
    """The controlled adaptive solver of Zeqiri et al., ICLR 2023: `Dopri5` whose steps are doubled, kept or halved.

    The sum of |error| over all of the state is held against `atol`; `rtol` does not count. There the first step has
    one size for all images, `first_step_size`, and the last step is shortened, `endpoint="clip"`. That program accepts
    whatever comes once a step falls below 0.02, or is rejected more than twice after it was shortened; here the steps
    go on being halved.
    """

    tableau = tableaus.DOPRI5_CAS


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
    cls.tableau.name: cls for cls in (Dopri5, Dopri5CAS, Bosh3, Heun2, Euler, Midpoint, RK4, Kutta38)
}


def get(name: str, **options: Any) -> Solver:
    """The solver called `name`, with its constructor's `options` (`rtol`, `atol`, `num_steps`, `gradient`, ...).

    Raises:
        UsageError: if there is no such method or option (stock TFP takes its own alone), or one is out of range.
        RunError: for "tfp", where TensorFlow Probability cannot be imported.
    """
    check_choice("solver", name, available())
    method = METHODS.get(name)
    if name == STOCK:
        method = stock_method(f"solver={STOCK!r}")
    known = [option for option in inspect.signature(method.__init__).parameters if option != "self"]
    for option in options:
        check_choice(f"option of {name}", option, known)
    return method(**options)
