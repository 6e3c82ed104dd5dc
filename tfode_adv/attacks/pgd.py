"""Projected gradient descent and its short forms: one step, and no random start."""

import dataclasses
from typing import ClassVar

import numpy as np
import tensorflow as tf

from tfode_adv.attacks import checks, losses, norms, random_streams
from tfode_adv.attacks.base import Attack
from tfode_adv.attacks.checks import number
from tfode_adv.attacks.engine import Batch, Numbers, State
from tfode_adv.attacks.gradient_sources import Source
from tfode_adv.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Projected gradient descent (Madry et al. 2018), on CleverHans' operations.

    With `early_stop` off and no restarts, the result equals CleverHans 4.0.0's
    `projected_gradient_descent` bit for bit.

    Args:
      step_size: length of a step in `norm`; default: 2.5 eps / steps.
      steps: gradient steps, at least 0.
      random_start: begin at a random point of the ball, not at the image.
      restarts: times a sample that resists is attacked anew; above 1 with `random_start` only.
      early_stop: a sample ends at its first success that holds on a fresh pass; else after all steps, wherever
        it then is.
      targeted: the labels are classes to reach, not to leave.
      source: where gradients come from (see `gradient_sources`); default: the model's own.
    """

    step_size: checks.Lengths | None = number(None, low=0, low_open=True, length=True)
    steps: int = number(10, low=0)
    random_start: bool = False
    restarts: int = number(1, low=1)
    early_stop: bool = True
    targeted: bool = False
    source: Source | None = None

    name: ClassVar[str] = "pgd"
    summary: ClassVar[str] = "projected gradient descent (Madry et al. 2018)"

    def __post_init__(self):
        super().__post_init__()
        if self.restarts > 1 and not self.random_start:
            raise UsageError(f"restarts is {self.restarts}, but must be 1 without random_start: all would be the same")
        if self.step_size is None:
            step_size = 2.5 * np.array(self.eps) / max(1, self.steps)
            object.__setattr__(self, "step_size", tuple(step_size.tolist()) if step_size.ndim else float(step_size))

    def start(self, batch: Batch, numbers: Numbers) -> State:
        if not self.random_start:
            return {"x_adv": batch.x}
        delta = norms.random_delta(random_streams.fold(batch.key, 0), batch.x, self.kind, numbers.eps)
        return {"x_adv": norms.inside(batch.x, delta, self.kind, numbers.eps)}

    def step(self, batch: Batch, state: State, numbers: Numbers) -> State:
        def loss(logits):
            return losses.steady_cross_entropy(batch.level * logits, batch.y, self.targeted)

        x_adv = state["x_adv"]
        _, logits, gradient = self.source.differentiate(batch.model, loss, x_adv)
        x_next, state = self.move(batch, state, gradient, numbers)
        if not self.early_stop:
            return {**state, "x_adv": x_next}
        # A point that did not hold on a second look is left, not claimed again.
        done = self.fooled(logits, batch.y) & ~batch.refuted
        return {**state, "x_adv": tf.where(norms.column(done, x_adv), x_adv, x_next), "done": done}

    def move(self, batch: Batch, state: State, gradient: tf.Tensor, numbers: Numbers) -> tuple[tf.Tensor, State]:
        """Returns the next iterate for this gradient, and the state with what the step remembers."""
        return norms.ascend(batch.x, state["x_adv"], gradient, self.kind, numbers.eps, numbers.step_size), state


@dataclasses.dataclass(frozen=True, kw_only=True)
class BIM(PGD):
    """The basic iterative method (Kurakin et al. 2017): PGD from the image itself.

    The published attack of WIFS 2019: 10 steps, each image stopped at its first success. As Foolbox 1.8
    has it, a step is brought into the ball first and into [0, 1] last, where CleverHans clips before too.
    """

    name: ClassVar[str] = "bim"
    summary: ClassVar[str] = "basic iterative method (Kurakin et al. 2017), PGD as Foolbox 1.8 and WIFS 2019 have it"

    def __post_init__(self):
        super().__post_init__()
        if self.random_start:
            raise UsageError(f"random_start is True, but {self.name} starts at the image; pgd takes it")

    def move(self, batch: Batch, state: State, gradient: tf.Tensor, numbers: Numbers) -> tuple[tf.Tensor, State]:
        delta = state["x_adv"] + norms.steepest(gradient, self.kind, numbers.step_size) - batch.x
        return norms.inside(batch.x, delta, self.kind, numbers.eps), state


@dataclasses.dataclass(frozen=True, kw_only=True)
class FGSM(BIM):
    """The fast gradient method (Goodfellow et al. 2015): one step of length eps."""

    steps: int = number(1, init=False, low=1)
    step_size: checks.Lengths | None = number(None, length=True, init=False, low=0)

    name: ClassVar[str] = "fgsm"
    summary: ClassVar[str] = "fast gradient method (Goodfellow et al. 2015)"

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "step_size", self.eps)
