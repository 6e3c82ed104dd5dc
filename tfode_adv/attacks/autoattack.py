"""AutoAttack: four complementary attacks, each on what the last left."""

import dataclasses
import warnings
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfode_adv.attacks import checks, losses
from tfode_adv.attacks.apgd import APGD
from tfode_adv.attacks.base import Attack
from tfode_adv.attacks.checks import AttackWarning, number
from tfode_adv.attacks.fab import FAB
from tfode_adv.attacks.gradient_sources import Source
from tfode_adv.attacks.result import AttackResult
from tfode_adv.attacks.square import Square
from tfode_adv.models.oracle import as_function, oracle

LOOKS = 5
"""Times that the model is asked whether it is randomised, as in the authors' program."""
ROUNDING = 1e-5
"""How far the answers may lie apart, beside 1 and their size, and still be the same."""


@dataclasses.dataclass(frozen=True, repr=False)
class StagedResult(AttackResult):
    """An `AttackResult` that tells what each stage turned: stages[name] [N] bool.

    Apart from those, in stages["clean"]: the images that were wrong as they are, which no stage turned.
    """

    stages: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoAttack(Attack):
    """The standard sequence (Croce and Hein 2020): APGD-CE, APGD-T, FAB-T, Square.

    Warns (`AttackWarning`) as the authors' program does: of a model that answers the same images
    differently, of gradients that vanish, and when Square turns what the gradient attacks left. What it asks
    the model to find that out, about the first images, is in no count.

    Args:
      steps: how many steps each gradient attack takes, at least 1.
      queries_square: how many steps Square takes, one query each, at least 1.
      targets: how many classes APGD-T and FAB-T aim at, one after the other.
      source: where gradients come from (see `gradient_sources`); default: the model's own.
    """

    steps: int = number(100, low=1)
    queries_square: int = number(5000, low=1)
    targets: int = number(9, structural=True, low=1)
    source: Source | None = None

    name: ClassVar[str] = "autoattack"
    summary: ClassVar[str] = "APGD-CE, APGD-T, FAB-T and Square in turn (Croce and Hein 2020)"

    def parts(self) -> dict[str, Attack]:
        """Returns the stages, by name, in their order."""
        common = {"norm": self.norm, "eps": self.eps, "seed": self.seed, "batch_size": self.batch_size}
        gradient = {**common, "steps": self.steps, "source": self.source}
        return {
            "apgd": APGD(**gradient),
            "apgd_t": APGD(**gradient, loss="dlr_targeted", targets=self.targets),
            "fab": FAB(**gradient, targets=self.targets),
            "square": Square(**common, steps=self.queries_square),
        }

    def accept(self, model: Any, x: np.ndarray) -> None:
        for part in self.parts().values():
            part.accept(model, x)

    def nothing(self, x: np.ndarray) -> StagedResult:
        return StagedResult(**vars(super().nothing(x)), stages=self._stages(0))

    def _stages(self, count):
        return {name: np.zeros(count, bool) for name in ("clean", *self.parts())}

    def _attack(self, model, x, y, index, progress, clean):
        self._warn_first(model, x, y)
        stages, parts = self._stages(len(x)), self.parts()
        whole = None
        for name, attack in parts.items():
            left = np.arange(len(x)) if whole is None else np.flatnonzero(~whole.success)
            if not len(left):
                break
            known = None if clean is None else clean.of(left)
            one = attack.chosen(left)(model, x[left], y[left], indices=index[left], progress=progress, clean=known)
            as_it_is = one.distance == 0
            stages["clean"][left], stages[name][left] = one.success & as_it_is, one.success & ~as_it_is
            if whole is None:
                whole = one
                continue
            whole.answers.put(left, one.answers)
            for values, found in ((getattr(whole, of), getattr(one, of)) for of in ("x_adv", "success", "distance")):
                values[left] = found
            whole.queries[left] += one.queries
            whole.gradients[left] += one.gradients
        if stages["square"].any():
            count = int(stages["square"].sum())
            _warn(f"Square turned {count} images that the gradient attacks left: gradients may be masked")
        return StagedResult(**{**vars(whole), "targeted": self.targeted}, stages=stages)

    def _warn_first(self, model, x, y):
        """Warns of a randomised model and of vanishing gradients, judged on the first images."""
        first = slice(0, self.batch_size or self.default_batch_size)
        asked, x, y = oracle(model), x[first], y[first]
        answers = np.stack([asked.ask(x, len(x)).logits for _ in range(LOOKS)])
        checks.logits(answers[0], y, lambda images: asked.ask(images, len(x)).logits, x)
        usual = 1 / losses.level(tf.constant(answers[0])).numpy()
        if (np.ptp(answers, axis=0) > ROUNDING * (usual + np.abs(answers[0]))).any():
            _warn("the model answers the same images differently: attack it with EOT")

        def loss_of(labels):
            return lambda logits: losses.margin(logits, tf.constant(labels))

        source = self.source.within(len(x))
        function, at_once, zero = as_function(model), max(1, len(x) // source.at_once), 0
        for part in range(0, len(x), at_once):
            chosen = slice(part, part + at_once)
            gradient = source.differentiate(function, loss_of(y[chosen]), tf.constant(x[chosen]))[2].numpy()
            zero += int((np.abs(gradient).reshape(len(gradient), -1).max(-1) == 0).sum())
        if zero:
            _warn(f"{zero} of {len(x)} gradients of the margin are zero: gradient attacks are blind there")


def _warn(message: str) -> None:
    warnings.warn(message, AttackWarning, stacklevel=5)
