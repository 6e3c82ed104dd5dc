"""The papers' classifiers by name, and the settings of the ODE blocks in any Keras model."""

from tfode_adv.models.random_solver import RandomSolver
from tfode_adv.models.registry import available, build
from tfode_adv.models.settings import SolverStatistics, ode_blocks, set_solver, solver_statistics

__all__ = ["RandomSolver", "SolverStatistics", "available", "build", "ode_blocks", "set_solver", "solver_statistics"]
