"""Training: losses, schedules, the loop with its callbacks, checkpoints, distribution and exports."""

from typing import TYPE_CHECKING

from tfode_adv import on_demand

if TYPE_CHECKING:
    from tfode_adv.training.artifacts import export
    from tfode_adv.training.loop import Survival, fit
    from tfode_adv.training.losses import CrossEntropy, Madry, Trades
    from tfode_adv.training.optimizer import SGD
    from tfode_adv.training.recipe import Recipe
    from tfode_adv.training.trainer import train

__all__ = ["SGD", "CrossEntropy", "Madry", "Recipe", "Survival", "Trades", "export", "fit", "train"]

__getattr__, __dir__ = on_demand.filled(__name__)
