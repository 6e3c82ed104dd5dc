"""What a search tries and what it maximises, checked without TensorFlow."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfode_adv import attacks, data, solvers
from tfode_adv.errors import UsageError, check_choice, check_range
from tfode_adv.training.choices import OBJECTIVES
from tfode_adv.training.recipe import Recipe

if TYPE_CHECKING:
    import keras
    import keras_tuner

# What the tuner's score is called in its files.
SCORE = "score"


@dataclasses.dataclass(frozen=True)
class Space:
    """What is searched; None leaves the recipe's own value.

    Attributes:
        learning_rate, tol: (low, high), searched on a logarithmic scale.
        dropout: (low, high), in [0, 1).
        filters: the widths to choose among, each at least 1.
        solver: the names of the solvers to choose among.
    """

    learning_rate: Sequence[float] | None = None
    tol: Sequence[float] | None = None
    dropout: Sequence[float] | None = None
    filters: Sequence[int] | None = None
    solver: Sequence[str] | None = None

    def __post_init__(self):
        for name in ("learning_rate", "tol", "dropout"):
            pair = getattr(self, name)
            if pair is None:
                continue
            if len(pair) != 2 or not pair[0] < pair[1]:
                raise UsageError(f"the range of {name} is {list(pair)}, but must be two numbers, low,high")
            # A logarithmic scale has no zero.
            check_range(f"the low end of {name}", pair[0], low=0, low_open=name != "dropout")
            check_range(f"the high end of {name}", pair[1], high=1 if name == "dropout" else math.inf, high_open=True)
        for solver in self.solver or ():
            check_choice("solver", solver, solvers.available())
        for filters in self.filters or ():
            check_range("filters", filters, low=1)
        if not any(vars(self).values()):
            raise UsageError(f"nothing to search: give a range or choices for {', '.join(vars(self))}")

    def hyperparameters(self) -> "keras_tuner.HyperParameters":
        """The space in KerasTuner's terms."""
        import keras_tuner

        space = keras_tuner.HyperParameters()
        for name, sampling in (("learning_rate", "log"), ("tol", "log"), ("dropout", "linear")):
            if getattr(self, name) is not None:
                space.Float(name, *map(float, getattr(self, name)), sampling=sampling)
        for name in ("filters", "solver"):
            if getattr(self, name):
                space.Choice(name, list(getattr(self, name)), ordered=False if name == "solver" else None)
        return space

    def examples(self) -> Iterator[dict[str, Any]]:
        """Values that between them take every choice, and one of each range: all that a model may refuse."""
        values = {name: list(given) for name, given in vars(self).items() if given}
        ranges = {name: values.pop(name)[0] for name in ("learning_rate", "tol", "dropout") if name in values}
        for index in range(max(map(len, values.values()), default=1)):
            yield ranges | {name: choices[min(index, len(choices) - 1)] for name, choices in values.items()}


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is maximised, measured on validation images.

    Attributes:
        name: "accuracy"; "robust": the accuracy under PGD; "weighted":
            (1 - weight) accuracy + weight robust.
        weight: in [0, 1].
        eps: radius of that PGD, in L-infinity.
        steps: how many steps that PGD takes, each 2.5 eps / steps long.
        num_examples: images that it attacks, the first of the validation split.
    """

    name: str = "accuracy"
    weight: float = 0.5
    eps: float = 0.1
    steps: int = 5
    num_examples: int = 128

    def __post_init__(self):
        check_choice("objective", self.name, OBJECTIVES)
        check_range("weight", self.weight, low=0, high=1)
        check_range("eps", self.eps, low=0, low_open=True)
        check_range("steps", self.steps, low=1)
        check_range("num_examples", self.num_examples, low=1)

    def score(self, model: "keras.Model", accuracy: float, recipe: Recipe) -> dict[str, float]:
        """The score of a trained model whose validation accuracy is known, and what it is made of."""
        if self.name == "accuracy":
            return {SCORE: accuracy, "accuracy": accuracy}
        robust = self._robust_accuracy(model, recipe)
        weight = 1.0 if self.name == "robust" else self.weight
        return {SCORE: (1 - weight) * accuracy + weight * robust, "accuracy": accuracy, "robust": robust}

    def _robust_accuracy(self, model: "keras.Model", recipe: Recipe) -> float:
        options = {"data_dir": recipe.data_dir, "validation": recipe.validation, "download": recipe.download}
        held_out = data.info(recipe.dataset, recipe.data_dir, recipe.download).num_examples(
            "validation", recipe.validation
        )
        x, y = data.arrays(recipe.dataset, "validation", min(self.num_examples, held_out), **options)
        attack = attacks.PGD(norm="linf", eps=self.eps, steps=self.steps, batch_size=recipe.batch_size)
        logits = model.predict(attack(model, x, y).x_adv, batch_size=recipe.batch_size, verbose=0)
        return float(np.mean(np.argmax(logits, axis=-1) == y))
