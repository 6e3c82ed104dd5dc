"""The papers' classifiers by name, and the settings of the ODE blocks in any Keras model."""

from tfode_adv.models.registry import available, build
from tfode_adv.models.settings import SolverStatistics, ode_blocks, set_solver, solver_statistics

__all__ = ["SolverStatistics", "available", "build", "ode_blocks", "set_solver", "solver_statistics"]
