"""Square: random search with squares (or, in the Euclidean norm, hills) that shrink."""

import dataclasses
import functools
import math
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfode_adv.attacks import losses, norms, random_streams
from tfode_adv.attacks.base import Attack
from tfode_adv.attacks.checks import number
from tfode_adv.attacks.engine import Batch, Numbers, State
from tfode_adv.errors import UsageError

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Steps, of 10,000, after which the squares' share of the image halves (section 4.1)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """The score-based Square attack (Andriushchenko et al. 2020): one query a step, no gradient.

    Args:
      steps: queries in one restart.
      share: the part of the image that the first squares cover, in (0, 1].
      restarts: random starts.
    """

    steps: int = number(5000, low=0)
    share: float = number(0.8, low=0, high=1, low_open=True)
    restarts: int = number(1, low=1)

    name: ClassVar[str] = "square"
    summary: ClassVar[str] = "gradient-free random search (Andriushchenko et al. 2020)"

    def costs(self, steps: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
        return steps, steps * 0

    def accept(self, model: Any, x: np.ndarray) -> None:
        super().accept(model, x)
        if x.ndim != 4:
            raise UsageError(f"images have shape {x.shape}, but square takes [N, H, W, C]")

    def start(self, batch: Batch, numbers: Numbers) -> State:
        draw = _linf_start if self.kind == "linf" else _l2_start
        first = draw(batch.x, batch.key, numbers.eps)
        worst = tf.zeros_like(batch.y, tf.float32) - math.inf
        return {"x_adv": batch.x, "proposal": first, "margin": worst}

    def step(self, batch: Batch, state: State, numbers: Numbers) -> State:
        proposal = state["proposal"]
        logits = batch.model(proposal)
        margin, done = losses.margin(logits, batch.y), self.fooled(logits, batch.y)
        better = (margin > state["margin"]) | done
        best = tf.where(norms.column(better, proposal), proposal, state["x_adv"])
        key = random_streams.fold(batch.key, 1, batch.k)
        draw = _linf_proposal if self.kind == "linf" else _l2_proposal
        return {
            "x_adv": best,
            "proposal": draw(batch.x, best, key, _portion(batch, numbers), numbers.eps),
            # Where a randomised model was fooled by luck, that margin is not to be beaten.
            "margin": tf.where(better & ~done, margin, state["margin"]),
            "done": done,
        }


def _portion(batch, numbers):
    """Returns the share [B] of the image that a square covers at this step."""
    progress = 10_000.0 * tf.cast(batch.k, tf.float32) / tf.cast(numbers.steps, tf.float32)
    passed = tf.reduce_sum(tf.cast(progress[:, None] > np.float32(HALVINGS), tf.float32), -1)
    return numbers.share / 2.0**passed


def _side(portion, x, low):
    """Returns the side [B] of a square that covers `portion` [B] of `x`, within `low` and the image."""
    height, width = x.shape[1:3]
    side = tf.cast(tf.round(tf.sqrt(portion * height * width)), tf.int32)
    return tf.minimum(tf.maximum(side, low), min(height, width))


def _window(key, side, x):
    """Returns two random corners [B, 2] of squares of `side` [B], and where both lie: masks [B, H, W, 1]."""
    draws = random_streams.uniform(key, [4])
    corners, masks = [], []
    for first in (0, 2):
        corner = []
        for axis, extent in enumerate(x.shape[1:3]):
            free = tf.cast(extent - side + 1, tf.float32)
            corner.append(tf.cast(draws[:, first + axis] * free, tf.int32))
        rows, columns = (
            (tf.range(extent)[None] >= at[:, None]) & (tf.range(extent)[None] < (at + side)[:, None])
            for extent, at in zip(x.shape[1:3], corner, strict=True)
        )
        corners.append(tf.stack(corner, -1))
        masks.append((rows[:, :, None] & columns[:, None, :])[..., None])
    return corners, masks


def _linf_start(x, key, eps):
    """Vertical stripes of +-eps, a sign for each column and channel."""
    stripes = random_streams.signs(random_streams.fold(key, 0), [1, *x.shape[2:]])
    return norms.inside(x, norms.column(eps, x) * stripes + tf.zeros_like(x), "linf", eps)


def _linf_proposal(x, best, key, portion, eps):
    """A square of +-eps, a sign for each channel."""
    _, (mask, _) = _window(random_streams.fold(key, 0), _side(portion, x, 1), x)
    signs = random_streams.signs(random_streams.fold(key, 1), [1, 1, x.shape[-1]])
    return norms.inside(x, tf.where(mask, norms.column(eps, x) * signs, best - x), "linf", eps)


def _l2_start(x, key, eps):
    """A grid of five by five hills, each channel with a sign of its own, scaled to eps."""
    height, width, channels = x.shape[1:]
    side = max(1, min(height, width) // 5)
    down, across = height // side, width // side
    hills = np.zeros([height, width], np.float32)
    hills[: down * side, : across * side] = np.tile(_hill(side), (down, across))
    signs = random_streams.signs(random_streams.fold(key, 0), [down, across, channels])
    cell = np.minimum(np.arange(height) // side, down - 1), np.minimum(np.arange(width) // side, across - 1)
    signs = tf.gather(tf.gather(signs, cell[0], axis=1), cell[1], axis=2)
    return _scaled(x, signs * hills[..., None], eps)


def _l2_proposal(x, best, key, portion, eps):
    """Moves the mass of one window into a hill in another (algorithm 3)."""
    side = _side(portion, x, 3)
    side = tf.minimum(side + 1 - side % 2, min(x.shape[1:3]))
    (corner, _), (mask, other) = _window(random_streams.fold(key, 0), side, x)
    delta = best - x
    flip = random_streams.uniform(random_streams.fold(key, 1), []) < 0.5
    hill = _hills_at(corner, side, flip, x) * random_streams.signs(random_streams.fold(key, 2), [1, 1, x.shape[-1]])

    inside = tf.where(mask, delta, 0.0)
    fresh = _unit_channels(hill + _unit_channels(inside))
    spare = tf.nn.relu(tf.square(eps) - tf.square(norms.length(delta, "l2"))) / x.shape[-1]
    held = tf.reduce_sum(tf.square(tf.where(mask | other, delta, 0.0)), [1, 2], keepdims=True)
    fresh *= tf.sqrt(norms.column(spare, x) + held)
    return _scaled(x, tf.where(mask, fresh, tf.where(other, 0.0, delta)), eps)


def _unit_channels(delta):
    """Returns [B, H, W, C] with every channel of length 1, or zero."""
    return delta / (norms.TINY + tf.sqrt(tf.reduce_sum(tf.square(delta), [1, 2], keepdims=True)))


def _scaled(x, delta, eps):
    """Returns `x` and `delta` scaled to the length eps, in [0, 1]."""
    size = norms.column(norms.length(delta, "l2"), x)
    return norms.inside(x, norms.column(eps, x) * delta / (norms.TINY + size), "l2", eps)


def _hills_at(corner, side, flip, x):
    """Returns [B, H, W, 1]: for each sample a hill of its `side` at its `corner`, zero elsewhere."""
    largest = min(x.shape[1:3])
    table = tf.constant(_hill_table(largest))
    down, across = (
        tf.clip_by_value(tf.range(extent)[None] - corner[:, axis : axis + 1], -1, largest) + 1
        for axis, extent in enumerate(x.shape[1:3])
    )
    hills = tf.gather(table, side)
    upright = tf.gather(tf.gather(hills, down, axis=1, batch_dims=1), across, axis=2, batch_dims=1)
    turned = tf.transpose(hills, [0, 2, 1])
    turned = tf.gather(tf.gather(turned, down, axis=1, batch_dims=1), across, axis=2, batch_dims=1)
    return tf.where(norms.column(flip, upright), upright, turned)[..., None]


@functools.cache
def _hill_table(largest: int) -> np.ndarray:
    """Returns [side, 1 + row + 1, 1 + column + 1]: the hills of all sides, with a rim of zeros."""
    table = np.zeros([largest + 1, largest + 2, largest + 2], np.float32)
    for side in range(1, largest + 1):
        table[side, 1 : side + 1, 1 : side + 1] = _hill(side)
    return table


def _hill(side: int) -> np.ndarray:
    """Returns [side, side] of length 1: a hill on the upper half, a hollow on the lower (section 4.3)."""
    half = side // 2
    hill = np.concatenate([_bump(half, side), -_bump(side - half, side)])
    return hill / np.linalg.norm(hill)


def _bump(height: int, width: int) -> np.ndarray:
    """Returns [height, width]: nested squares about the centre, the m-th adding 1 / m^2; length 1."""
    bump = np.zeros([height, width], np.float32)
    middle = height // 2, width // 2
    for reach in range(max(height // 2, width // 2) + 1):
        top, left = (max(0, at - reach) for at in middle)
        bump[top : middle[0] + reach + 1, left : middle[1] + reach + 1] += 1.0 / (reach + 1) ** 2
    return bump / max(np.linalg.norm(bump), norms.TINY)
