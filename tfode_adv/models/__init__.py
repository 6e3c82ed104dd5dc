"""The papers' classifiers by name, and the settings of the ODE blocks in any Keras model."""

from tfode_adv.models.ode_blocks import SolverStatistics, ode_blocks, set_solver, solver_statistics
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
