"""Searches for a recipe's best values with KerasTuner: at random, by Bayesian optimisation, by Hyperband."""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import keras
import keras_tuner
import tensorflow as tf

from tfode_adv.errors import RunError, UsageError, check_choice, check_range
from tfode_adv.files import PathLike
from tfode_adv.run_folder import Run
from tfode_adv.training.choices import METHODS
from tfode_adv.training.loop import Diverged, Survival
from tfode_adv.training.recipe import Recipe
from tfode_adv.training.search_space import SCORE, Objective, Space
from tfode_adv.training.trainer import train

# The score of a trial that failed, below any accuracy.
_WORST = -1.0


class _Stop(keras_tuner.errors.FatalError, RunError):
    """What ends the search, not a trial alone: KerasTuner lets it through, and a program says it in a line."""


class _Misused(keras_tuner.errors.FatalError, UsageError):
    """The same for a mistake of the caller's: every other trial would meet it too."""


def apply(recipe: Recipe, values: dict[str, Any]) -> Recipe:
    """The recipe with those of its values replaced; names that are not the recipe's are the model's."""
    own = {name: value for name, value in values.items() if hasattr(recipe, name)}
    options = {name: value for name, value in values.items() if name not in own and "/" not in name}
    return dataclasses.replace(recipe, **own, model_options={**recipe.model_options, **options})


class Search(keras_tuner.Tuner):
    """A KerasTuner tuner whose trials are trainings of a recipe, each in its own resumable run folder.

    Args:
        recipe: what every trial starts from; its epochs are those of a trial, for Hyperband the most.
        space: what is searched.
        objective: what is maximised.
        folder: the search's; one that holds an unfinished search goes on with it.
        method: "random", "bayesian" or "hyperband".
        trials: how many; Hyperband has its own count.
        report: called with each line worth telling.

    Raises:
        UsageError: for an unknown method or a value out of range.
    """

    def __init__(
        self,
        recipe: Recipe,
        space: Space,
        objective: Objective,
        folder: PathLike,
        *,
        method: str = "random",
        trials: int = 10,
        report: Callable[[str], None] = print,
    ):
        check_choice("method", method, METHODS)
        check_range("trials", trials, low=1)
        if not recipe.validation:
            raise UsageError("validation is 0, but a search needs validation images")
        self.recipe, self.goal, self.report = recipe, objective, report
        self.folder = pathlib.Path(folder)
        common = {
            "objective": keras_tuner.Objective(SCORE, "max"),
            # KerasTuner takes 0 for no seed.
            "seed": recipe.seed + 1,
            "hyperparameters": space.hyperparameters(),
        }
        if method == "hyperband":
            oracle = keras_tuner.oracles.HyperbandOracle(max_epochs=recipe.epochs, **common)
        elif method == "bayesian":
            oracle = keras_tuner.oracles.BayesianOptimizationOracle(max_trials=trials, **common)
        else:
            oracle = keras_tuner.oracles.RandomSearchOracle(max_trials=trials, **common)
        try:
            super().__init__(oracle, directory=str(self.folder), project_name="search")
        except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
            # KerasTuner reads what an earlier start of the search left.
            raise RunError(f"the search in {str(self.folder)!r} cannot be read: {error}") from error

    def run_trial(self, trial: keras_tuner.engine.trial.Trial, *args, **kwargs) -> dict[str, float]:
        values = trial.hyperparameters.values
        recipe = apply(self.recipe, values)
        # Hyperband grants epochs, and lets the best go on from where an earlier trial left them.
        recipe = dataclasses.replace(recipe, epochs=values.get("tuner/epochs") or recipe.epochs)
        folder, before = self._run(trial.trial_id), values.get("tuner/trial_id")
        if before and self._run(before).exists() and not folder.exists():
            shutil.copytree(self._run(before), folder)
        self.report(f"trial {trial.trial_id}: " + _line(values))
        keras.utils.clear_session()
        try:
            result = self._result(recipe, folder)
        except (_Stop, _Misused):
            raise
        except (RunError, UsageError, tf.errors.OpError) as error:
            # Scored all the same: a failure that KerasTuner counts is a traceback, and the third ends the search.
            reason = str(error).strip().partition("\n")[0]
            self.report(f"trial {trial.trial_id} failed: {reason}")
            return {SCORE: _WORST}
        self.report(f"trial {trial.trial_id}: " + _line(result))
        return result

    def _result(self, recipe: Recipe, folder: pathlib.Path) -> dict[str, float]:
        """The score of a trial, trained in its folder, and what the score is made of."""
        try:
            model, end = train(
                recipe,
                lambda writes: Run(folder, {}),
                survival=Survival(resume=True),
                tensorboard=False,
                save_model=False,
                report=self.report,
            )
        except Diverged:
            raise
        except UsageError as error:
            raise _Misused(str(error)) from error
        except RunError as error:
            raise _Stop(str(error)) from error
        if not end.finished:
            raise KeyboardInterrupt
        if end.best_epoch is None:
            raise Diverged("no epoch was completed")
        return self.goal.score(model, 1.0 - end.best_error, recipe)

    def winner(self) -> tuple[dict[str, Any], float]:
        """The values of the best trial, by name, and its score.

        Raises:
            RunError: if no trial came to its end.
        """
        done = [trial for trial in self.oracle.trials.values() if trial.score not in (None, _WORST)]
        if not done:
            raise RunError(f"no trial of the search in {str(self.folder)!r} came to its end")
        # Of equals the first: KerasTuner reads a search that goes on in the order of its file system.
        best = min(done, key=lambda trial: (-trial.score, len(trial.trial_id), trial.trial_id))
        values = {name: value for name, value in best.hyperparameters.values.items() if "/" not in name}
        return values, best.score

    def _run(self, trial_id: str) -> pathlib.Path:
        return self.folder / "trials" / trial_id


def _line(values: dict[str, Any]) -> str:
    numbers = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in values.items()}
    return ", ".join(f"{name} {value}" for name, value in numbers.items())
