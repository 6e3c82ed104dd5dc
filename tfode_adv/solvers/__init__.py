"""ODE solvers behind the interface of `tfp.math.ode`, one step size a sample."""

from typing import TYPE_CHECKING

from tfode_adv import on_demand

if TYPE_CHECKING:
    from tfode_adv.solvers.block_options import SolverSettings
    from tfode_adv.solvers.diagnostics import Diagnostics, SolverState
    from tfode_adv.solvers.gradients import Adjoint, Backprop, BackpropSteps
    from tfode_adv.solvers.methods import (
        METHODS,
        RK4,
        Bosh3,
        Dopri5,
        Dopri5CAS,
        Euler,
        Heun2,
        Kutta38,
        Midpoint,
        get,
    )
    from tfode_adv.solvers.names import available, check_num_steps, is_adaptive
    from tfode_adv.solvers.solver import RungeKuttaSolver
    from tfode_adv.solvers.status import SolveError, Status
    from tfode_adv.solvers.tfp_interface import ChosenBySolver, Results

__all__ = [
    "METHODS",
    "RK4",
    "Adjoint",
    "Backprop",
    "BackpropSteps",
    "Bosh3",
    "ChosenBySolver",
    "Diagnostics",
    "Dopri5",
    "Dopri5CAS",
    "Euler",
    "Heun2",
    "Kutta38",
    "Midpoint",
    "Results",
    "RungeKuttaSolver",
    "SolveError",
    "SolverSettings",
    "SolverState",
    "Status",
    "available",
    "check_num_steps",
    "get",
    "is_adaptive",
]

__getattr__, __dir__ = on_demand.filled(__name__)
