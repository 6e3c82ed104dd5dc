"""Auto-PGD: projected gradient ascent that sets its own step size."""

import dataclasses
import math
from typing import ClassVar

import tensorflow as tf

from tfode_adv.attacks import losses, norms, random_streams, targets
from tfode_adv.attacks.base import Attack
from tfode_adv.attacks.checks import number
from tfode_adv.attacks.engine import Batch, Numbers, State
from tfode_adv.attacks.gradient_sources import Source
from tfode_adv.errors import check_choice

LOSSES = ("ce", "dlr", "dlr_targeted")
MOMENTUM = 0.75
PROGRESS = 0.75


@dataclasses.dataclass(frozen=True, kw_only=True)
class APGD(Attack):
    """Auto-PGD (Croce and Hein 2020, algorithm 1): steps halve at checkpoints without progress.

    Args:
      steps: gradient steps in one restart.
      restarts: random starts; not for "dlr_targeted", whose restarts are its targets.
      loss: "ce", "dlr" (difference of logits ratio) or "dlr_targeted".
      targets: for "dlr_targeted": how many of the most likely wrong classes are gone for in turn.
      source: where gradients come from (see `gradient_sources`); default: the model's own.
    """

    steps: int = number(100, low=0)
    restarts: int = number(1, low=1)
    loss: str = "ce"
    targets: int = number(9, structural=True, low=1)
    source: Source | None = None

    name: ClassVar[str] = "apgd"
    summary: ClassVar[str] = "Auto-PGD, step size set by progress (Croce and Hein 2020)"
    random_start: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        check_choice("loss", self.loss, LOSSES)

    def rounds(self, num_classes: int) -> int:
        return min(self.targets, num_classes - 1) if self.loss == "dlr_targeted" else self.restarts

    def start(self, batch: Batch, numbers: Numbers) -> State:
        delta = norms.random_delta(random_streams.fold(batch.key, 0), batch.x, self.kind, numbers.eps)
        x = norms.inside(batch.x, delta, self.kind, numbers.eps)
        each = tf.zeros_like(batch.y, tf.float32)
        target = targets.nearest(batch) if self.loss == "dlr_targeted" else batch.y
        return {
            "x_adv": x,
            "previous": x,
            "best": {"x": x, "loss": each - math.inf, "gradient": tf.zeros_like(x)},
            "size": each + 2.0 * numbers.eps,
            "watch": _watch(batch, each - math.inf, numbers.steps),
            "loss": each - math.inf,
            "target": target,
        }

    def step(self, batch: Batch, state: State, numbers: Numbers) -> State:
        def loss(logits):
            logits *= batch.level
            if self.loss == "dlr_targeted":
                return losses.targeted_dlr(logits, batch.y, state["target"])
            return {"ce": losses.steady_cross_entropy, "dlr": losses.dlr}[self.loss](logits, batch.y)

        x, best = state["x_adv"], state["best"]
        value, logits, gradient = self.source.differentiate(batch.model, loss, x)
        higher = value > best["loss"]
        new = {"x": x, "loss": value, "gradient": gradient}
        best = {name: tf.where(norms.column(higher, new[name]), new[name], best[name]) for name in new}

        first = batch.k == 0
        stuck, watch = _check(state["watch"], value > state["loss"], best["loss"], first, numbers.steps)
        size = tf.where(stuck, 0.5 * state["size"], state["size"])
        back = norms.column(stuck, x)
        here, gradient = tf.where(back, best["x"], x), tf.where(back, best["gradient"], gradient)

        target = norms.ascend(batch.x, here, gradient, self.kind, numbers.eps, norms.column(size, x))
        momentum = norms.column(tf.where(first, 1.0, MOMENTUM), x)
        move = momentum * (target - here) + (1.0 - momentum) * (here - state["previous"])
        following = norms.inside(batch.x, here + move - batch.x, self.kind, numbers.eps)
        # A point that did not hold on a second look is left, not claimed again.
        done = self.fooled(logits, batch.y) & ~batch.refuted
        return {
            **state,
            "x_adv": tf.where(norms.column(done, x), x, following),
            "previous": here,
            "best": best,
            "size": size,
            "watch": watch,
            "loss": value,
            "done": done,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class APGDDLR(APGD):
    """APGD on the difference of logits ratio."""

    loss: str = dataclasses.field(default="dlr", init=False)

    name: ClassVar[str] = "apgd_dlr"
    summary: ClassVar[str] = "Auto-PGD on the difference of logits ratio"


@dataclasses.dataclass(frozen=True, kw_only=True)
class APGDT(APGD):
    """APGD on the targeted difference of logits ratio, one restart for each of the likeliest classes."""

    loss: str = dataclasses.field(default="dlr_targeted", init=False)

    name: ClassVar[str] = "apgd_t"
    summary: ClassVar[str] = "Auto-PGD on the targeted difference of logits ratio"


def _watch(batch, best, steps):
    """Returns what is counted between two checkpoints, the first being at 22 % of the steps."""
    zero = tf.zeros_like(batch.y)
    span = zero + _share(0.22, steps)
    return {"rises": zero, "span": span, "left": span, "best": best, "halved": tf.ones_like(zero, tf.bool)}


def _share(share, steps):
    return tf.maximum(tf.cast(share * tf.cast(steps, tf.float32), tf.int32), 1)


def _check(watch, rose, best, first, steps):
    """Returns who has made no progress since the last checkpoint, and what is counted from here on."""
    rises = watch["rises"] + tf.cast(rose & ~first, tf.int32)
    left = watch["left"] - tf.cast(~first, tf.int32)
    due = left <= 0
    few = tf.cast(rises, tf.float32) <= PROGRESS * tf.cast(watch["span"], tf.float32)
    flat = ~watch["halved"] & (watch["best"] >= best)
    stuck = due & (few | flat)
    span = tf.where(due, tf.maximum(watch["span"] - _share(0.03, steps), _share(0.06, steps)), watch["span"])
    return stuck, {
        "rises": tf.where(due, 0, rises),
        "span": span,
        "left": tf.where(due, span, left),
        "best": tf.where(due, best, watch["best"]),
        "halved": tf.where(due, stuck, watch["halved"]),
    }
