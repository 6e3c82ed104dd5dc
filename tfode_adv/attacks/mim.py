"""The momentum iterative method."""

import dataclasses
from typing import ClassVar

import tensorflow as tf

from tfode_adv.attacks import norms
from tfode_adv.attacks.checks import number
from tfode_adv.attacks.engine import Batch, Numbers, State
from tfode_adv.attacks.pgd import BIM


@dataclasses.dataclass(frozen=True, kw_only=True)
class MIM(BIM):
    """Iterative ascent along an accumulated gradient (Dong et al. 2018), on CleverHans' operations.

    Args:
      decay: how much of the accumulated gradient is kept from step to step, in [0, 1].
    """

    decay: float = number(1.0, low=0, high=1)

    name: ClassVar[str] = "mim"
    summary: ClassVar[str] = "momentum iterative method (Dong et al. 2018)"

    def start(self, batch: Batch, numbers: Numbers) -> State:
        return {"x_adv": batch.x, "momentum": tf.zeros_like(batch.x)}

    def move(self, batch: Batch, state: State, gradient: tf.Tensor, numbers: Numbers) -> tuple[tf.Tensor, State]:
        # Not only the sum may overflow: what TINY bounds is no slope's size.
        gradient = gradient / norms.power_of_two(gradient)
        axes = list(range(1, gradient.shape.rank))
        mean = tf.reduce_mean(tf.abs(gradient), axes, keepdims=True)
        momentum = numbers.decay * state["momentum"] + gradient / tf.maximum(norms.TINY, mean)
        x_next = state["x_adv"] + norms.steepest(momentum, self.kind, numbers.step_size)
        return norms.inside(batch.x, x_next - batch.x, self.kind, numbers.eps), {**state, "momentum": momentum}
