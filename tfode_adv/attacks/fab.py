"""FAB: the nearest point across a linearised decision boundary, biased towards the image."""

import dataclasses
import math
from typing import ClassVar

import numpy as np
import tensorflow as tf

from tfode_adv.attacks import checks, losses, norms, targets
from tfode_adv.attacks.base import Attack
from tfode_adv.attacks.checks import number
from tfode_adv.attacks.engine import Batch, Numbers, State
from tfode_adv.attacks.gradient_sources import Source, in_parts

_HUGE = 1e10
_HAIR = 1e-4
"""How far to step from a point where two logits are equal, in pixel values."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FAB(Attack):
    """The fast adaptive boundary attack (Croce and Hein 2020b): minimal perturbations in any norm.

    Args:
      eps: success counts within this radius only, and a sample ends there; None: as near as possible.
      steps: iterations for one target.
      targets: how many of the most likely wrong classes are gone for in turn; None: all at once, by the
        untargeted form, which takes the gradients of every class at each step.
      overshoot: factor on the step to the boundary.
      backward: where the search goes on from after a success: that far from the image to the point found.
      bias: the most that an iterate is drawn towards the image's own projection.
      source: where gradients come from (see `gradient_sources`); default: the model's own.
    """

    eps: checks.Lengths | None = number(None, low=0, length=True)
    steps: int = number(100, low=0)
    targets: int | None = number(9, structural=True, low=1)
    overshoot: float = number(1.05, low=1)
    backward: float = number(0.9, low=0, high=1)
    bias: float = number(0.1, low=0, high=1)
    source: Source | None = None

    name: ClassVar[str] = "fab"
    summary: ClassVar[str] = "fast adaptive boundary, minimal perturbations (Croce and Hein 2020)"

    def rounds(self, num_classes: int) -> int:
        return min(self.targets, num_classes - 1) if self.targets else 1

    def rows(self, num_classes: int) -> int:
        return self.source.at_once * (1 if self.targets else num_classes)

    def costs(self, steps: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
        each = 1 if self.targets else num_classes
        return steps * (self.source.queries * each + 1), steps * self.source.draws * each

    def start(self, batch: Batch, numbers: Numbers) -> State:
        far = tf.zeros_like(batch.y, tf.float32) + _HUGE
        target = targets.nearest(batch) if self.targets else batch.y
        return {"x_adv": batch.x, "iterate": batch.x, "distance": far, "target": target}

    def step(self, batch: Batch, state: State, numbers: Numbers) -> State:
        here = state["iterate"]
        gap, normal = (self._targeted if self.targets else self._untargeted)(batch, state["target"], here)
        dot = tf.reduce_sum(normal * (batch.x - here), axis=list(range(1, here.shape.rank)))
        forth = to_hyperplane(here, normal, -gap, self.kind)
        own = to_hyperplane(batch.x, normal, -gap - dot, self.kind)
        lengths = [tf.maximum(norms.length(step, self.kind), 1e-8) for step in (forth, own)]
        alpha = norms.column(tf.minimum(lengths[0] / (lengths[0] + lengths[1]), numbers.bias), here)
        there = (here + numbers.overshoot * forth) * (1.0 - alpha) + (batch.x + numbers.overshoot * own) * alpha
        there = tf.clip_by_value(there, 0.0, 1.0)

        crossed = self.fooled(batch.model(there), batch.y)
        distance = norms.length(there - batch.x, self.kind)
        nearest = tf.where(batch.refuted, _HUGE, state["distance"])
        nearer = crossed & (distance < nearest)
        distance = tf.where(nearer, distance, nearest)
        retreat = batch.x + numbers.backward * (there - batch.x)
        state = {
            **state,
            "x_adv": tf.where(norms.column(nearer, there), there, state["x_adv"]),
            "iterate": tf.where(norms.column(crossed, there), retreat, there),
            "distance": distance,
        }
        return state if self.eps is None else {**state, "done": distance <= numbers.eps}

    def _targeted(self, batch, target, x):
        """Returns z_target - z_y [B] at `x`, or a little less than zero where it is zero, and its gradient."""

        def difference(logits):
            z_t, z_y = (tf.gather(logits, label, batch_dims=1) for label in (target, batch.y))
            return z_t - z_y

        value, logits, gradient = self.source.differentiate(batch.model, difference, x)
        return self._untied(value, logits, gradient), gradient

    def _untargeted(self, batch, _, x):
        """Returns the same for the class whose linearised boundary is nearest, each sample's own."""
        classes, count = batch.classes, tf.shape(x)[0]
        label = tf.repeat(batch.y, classes)
        target = tf.tile(tf.range(classes, dtype=label.dtype), [count])

        def towards(part):
            """Returns what `differentiate` does for the classes `part`, as many of each sample."""
            size = tf.shape(part)[0] // count

            def difference(logits):
                z_t, z_y = (tf.gather(logits, k, batch_dims=1) for k in (part, tf.repeat(batch.y, size)))
                return z_t - z_y

            return self.source.differentiate(batch.model, difference, tf.repeat(x, size, axis=0))

        if self.batch_size is None:
            value, logits, gradient = towards(target)
        else:
            value, logits, gradient = in_parts(towards, target, classes, self.batch_size // self.source.at_once, 3)
        dual = _dual(gradient, self.kind)
        reach = tf.where((dual > 0) & (target != label), tf.math.divide_no_nan(tf.abs(value), dual), math.inf)
        nearest = tf.argmin(tf.reshape(reach, [count, classes]), -1, output_type=tf.int32)
        pick = tf.range(count) * classes + nearest
        value, logits, gradient = (tf.gather(found, pick) for found in (value, logits, gradient))
        return self._untied(value, logits, gradient), gradient

    def _untied(self, value, logits, gradient):
        """Returns `value` [B], or where it is zero minus what a rounding step or a hair's breadth changes it by."""
        rounding = losses.ROUNDING * tf.reduce_max(tf.abs(logits), -1)
        return tf.where(value == 0, -tf.maximum(rounding, _HAIR * _dual(gradient, self.kind)), value)


def _dual(gradient, kind):
    """Returns how fast [B] a function with `gradient` [B, ...] grows along its steepest way."""
    axes = list(range(1, gradient.shape.rank))
    return tf.reduce_sum(tf.abs(gradient), axes) if kind == "linf" else norms.length(gradient, "l2")


def to_hyperplane(x: tf.Tensor, normal: tf.Tensor, offset: tf.Tensor, kind: str) -> tf.Tensor:
    """Returns the shortest step d with <normal, d> = `offset` [B] that keeps `x + d` in [0, 1].

    Each element goes the helpful way, by t in `linf` or t |normal| in `l2`, until it meets the box; t is
    found on the sorted meeting points. If the box holds no such point: as far as it allows.
    """
    rank, shape = x.shape.rank, tf.shape(x)
    count = shape[0]
    x, normal = tf.reshape(x, [count, -1]), tf.reshape(normal, [count, -1])
    scale = norms.power_of_two(normal)
    normal, offset = normal / scale, offset / scale[:, 0]
    way = tf.sign(normal) * tf.sign(offset)[:, None]
    weight = tf.abs(normal)
    room = tf.where(way > 0, 1.0 - x, x)
    pace = tf.ones_like(weight) if kind == "linf" else weight
    meets = tf.where(pace > 0, room / tf.where(pace > 0, pace, 1.0), _HUGE)

    order = tf.argsort(meets)
    meets_sorted = tf.gather(meets, order, batch_dims=1)
    filled = tf.cumsum(tf.gather(weight * room, order, batch_dims=1), axis=1, exclusive=True)
    rate = tf.cumsum(tf.gather(weight * pace, order, batch_dims=1), axis=1, reverse=True)
    need = tf.abs(offset)[:, None]
    # The first element that would meet the box only after the need is met; none: all go to the box.
    enough = filled + rate * meets_sorted >= need
    first = tf.argmax(enough, axis=1, output_type=tf.int32)
    at = [tf.gather(values, first, batch_dims=1)[:, None] for values in (filled, rate)]
    t = tf.where(tf.reduce_any(enough, 1, keepdims=True), (need - at[0]) / tf.maximum(at[1], 1e-30), _HUGE)
    step = way * tf.minimum(t * pace, room)
    return tf.ensure_shape(tf.reshape(step, shape), [None] * rank)
