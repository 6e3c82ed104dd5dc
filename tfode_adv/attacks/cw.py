"""Carlini and Wagner's attacks: the smallest perturbation that carries the margin of the logits over."""

import dataclasses
from typing import ClassVar

import tensorflow as tf
from cleverhans.tf2.attacks.carlini_wagner_l2 import clip_tanh
from cleverhans.tf2.attacks.carlini_wagner_l2 import l2 as squared_l2

from tfode_adv.attacks import adam, checks, losses, norms
from tfode_adv.attacks.base import Attack
from tfode_adv.attacks.checks import number
from tfode_adv.attacks.engine import Batch, Numbers, State
from tfode_adv.attacks.gradient_sources import Source

_HUGE = 1e10


@dataclasses.dataclass(frozen=True, kw_only=True)
class _MarginAttack(Attack):
    """What both attacks share: the hinge on the margin, and what counts as a hit.

    Args:
      eps: success counts within this radius only, and a sample ends there; None: as near as possible.
      confidence: the margin of the logits to be reached, at least 0.
      learning_rate: Adam's.
      targeted: the labels are classes to reach, not to leave.
      source: where gradients come from (see `gradient_sources`); default: the model's own.
    """

    eps: checks.Lengths | None = number(None, low=0, length=True)
    confidence: float = number(0.0, low=0)
    learning_rate: float = number(0.005, low=0, low_open=True)
    targeted: bool = False
    source: Source | None = None

    def hinge(self, batch, x_adv, confidence):
        """Returns max(confidence - margin, 0) [B], its gradient by `x_adv`, who is fooled, and who fully."""

        def loss(logits):
            short = tf.nn.relu(confidence - losses.margin(logits, batch.y, self.targeted))
            return batch.level[:, 0] * short

        value, logits, gradient = self.source.differentiate(batch.model, loss, x_adv)
        fooled = self.fooled(logits, batch.y)
        margin = losses.margin(logits, batch.y, self.targeted)
        return value, gradient, fooled, fooled & (margin >= confidence)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CWL2(_MarginAttack):
    """The Euclidean attack of Carlini and Wagner (2017, section VI.A).

    Adam on |x' - x|^2 + const * hinge, x' a tanh of the variable; const by binary search, each sample's
    own. CleverHans' transformation and distance are used; its loop is not: it gives `const` the shape of
    an image, which mixes samples, and it stops them by the batch's loss.

    Args:
      steps: Adam's steps for one value of const.
      binary_search_steps: values of const tried.
      initial_const: the first of them.
      abort_early: leave a value of const when the loss no longer falls.
    """

    norm: str = "l2"
    steps: int = number(1000, low=0)
    binary_search_steps: int = number(5, low=1)
    initial_const: float = number(0.01, low=0, low_open=True)
    abort_early: bool = True

    name: ClassVar[str] = "cw"
    summary: ClassVar[str] = "Carlini and Wagner's smallest Euclidean perturbation (2017)"
    norms: ClassVar[tuple[str, ...]] = ("l2", "l2rms")

    @property
    def limit(self) -> int:
        return self.steps * self.binary_search_steps

    def start(self, batch: Batch, numbers: Numbers) -> State:
        each = tf.zeros_like(batch.y, tf.float32)
        search = {"const": each + numbers.initial_const, "lower": each, "upper": each + _HUGE}
        best = {"x_adv": batch.x, "best": each + _HUGE}
        return {**search, **best, "round": tf.zeros_like(batch.y), "inner": self._fresh(batch)}

    def _fresh(self, batch):
        """Returns what begins anew with each value of const."""
        each = tf.zeros_like(batch.y, tf.float32)
        return {
            "w": tf.zeros_like(batch.x),
            "adam": adam.init(batch.x),
            "i": tf.zeros_like(batch.y),
            "hit": tf.zeros_like(batch.y, tf.bool),
            "loss": each + _HUGE,
        }

    def step(self, batch: Batch, state: State, numbers: Numbers) -> State:
        inner = state["inner"]
        origin = tf.atanh((batch.x * 2.0 - 1.0) * 0.999999)
        x_new = clip_tanh(origin + inner["w"], 0.0, 1.0)
        hinge, slope, _, hit = self.hinge(batch, x_new, numbers.confidence)
        distance = squared_l2(x_new, clip_tanh(origin, 0.0, 1.0))

        best = tf.where(batch.refuted, _HUGE, state["best"])
        better = hit & (distance < best)
        x_adv = tf.where(norms.column(better, x_new), x_new, state["x_adv"])
        best = tf.where(better, distance, best)

        by_x = norms.column(state["const"], x_new) * slope + 2.0 * (x_new - batch.x)
        change, adam_state = adam.update(inner["adam"], by_x * 2.0 * x_new * (1.0 - x_new), numbers.learning_rate)
        total, i = state["const"] * hinge + distance, inner["i"] + 1
        look = (i - 1) % tf.maximum(numbers.steps // 10, 1) == 0
        stuck = look & (total > 0.9999 * inner["loss"]) & self.abort_early
        inner = {
            "w": inner["w"] + change,
            "adam": adam_state,
            "i": i,
            "hit": (inner["hit"] & ~batch.refuted) | hit,
            "loss": tf.where(look, total, inner["loss"]),
        }
        state = {**state, "x_adv": x_adv, "best": best, "inner": inner}
        return self._search(batch, state, numbers, over=stuck | (i >= numbers.steps))

    def _search(self, batch, state, numbers, over):
        """Returns `state` with the next value of const for the samples whose present one is `over`."""
        const, hit = state["const"], state["inner"]["hit"]
        upper = tf.where(over & hit, tf.minimum(state["upper"], const), state["upper"])
        lower = tf.where(over & ~hit, tf.maximum(state["lower"], const), state["lower"])
        following = tf.where(upper < _HUGE, 0.5 * (lower + upper), 10.0 * const)
        rounds = state["round"] + tf.cast(over, state["round"].dtype)
        all_over = rounds >= numbers.binary_search_steps
        done = tf.zeros_like(over) if self.eps is None else state["best"] <= tf.square(numbers.eps)
        inner = tf.nest.map_structure(
            lambda fresh, old: tf.where(norms.column(over, old), fresh, old),
            self._fresh(batch),
            state["inner"],
        )
        state = {**state, "upper": upper, "lower": lower, "round": rounds, "inner": inner}
        return {**state, "const": tf.where(over, following, const), "done": done, "over": all_over}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CWLinf(_MarginAttack):
    """Carlini and Wagner's attack for the largest change, as MSML 2021 runs it: 100 iterations.

    Adam on the hinge inside a bound: eps at first (1 if eps is None), then `shrink` times the distance
    of the last hit, each sample's own.

    Args:
      steps: Adam's steps.
      shrink: factor on the bound after a hit, in (0, 1).
    """

    steps: int = number(100, low=0)
    learning_rate: float = number(0.01, low=0, low_open=True)
    shrink: float = number(0.9, low=0, high=1, low_open=True, high_open=True)

    name: ClassVar[str] = "cwlinf"
    summary: ClassVar[str] = "Carlini and Wagner's margin within a shrinking bound (MSML 2021)"
    norms: ClassVar[tuple[str, ...]] = ("linf",)

    def start(self, batch: Batch, numbers: Numbers) -> State:
        each = tf.zeros_like(batch.y, tf.float32)
        bound = each + (1.0 if self.eps is None else numbers.eps)
        hits = {"x_adv": batch.x, "any": tf.zeros_like(batch.y, tf.bool)}
        return {**hits, "iterate": batch.x, "bound": bound, "adam": adam.init(batch.x)}

    def step(self, batch: Batch, state: State, numbers: Numbers) -> State:
        x_new = state["iterate"]
        _, gradient, fooled, hit = self.hinge(batch, x_new, numbers.confidence)
        reached = norms.length(x_new - batch.x, self.kind)
        before = state["any"] & ~batch.refuted
        keep = hit | (fooled & ~before)
        x_adv = tf.where(norms.column(keep, x_new), x_new, state["x_adv"])
        # With an eps the first hit is enough; should it be refuted, the whole ball is still to be searched.
        shrinks = hit & (self.eps is None)
        bound = tf.where(shrinks, tf.minimum(state["bound"], numbers.shrink * reached), state["bound"])
        change, adam_state = adam.update(state["adam"], gradient, numbers.learning_rate)
        following = norms.inside(batch.x, x_new + change - batch.x, self.kind, norms.column(bound, x_new))
        state = {"x_adv": x_adv, "any": before | hit, "iterate": following, "bound": bound}
        done = hit if self.eps is not None else tf.zeros_like(hit)
        return {**state, "adam": adam_state, "done": done}
