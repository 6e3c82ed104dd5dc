"""The papers' classifiers by name, and the settings of the ODE blocks in any Keras model."""

from typing import TYPE_CHECKING

from tfode_adv import on_demand

if TYPE_CHECKING:
    from tfode_adv.models.block_settings import SolverStatistics, ode_blocks, set_solver, solver_statistics
    from tfode_adv.models.random_solver import RandomSolver
    from tfode_adv.models.registry import available, build
    from tfode_adv.models.wrappers import Logits, Rescaled

__all__ = [
    "Logits",
    "RandomSolver",
    "Rescaled",
    "SolverStatistics",
    "available",
    "build",
    "ode_blocks",
    "set_solver",
    "solver_statistics",
]

__getattr__, __dir__ = on_demand.filled(__name__)
