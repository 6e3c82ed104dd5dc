"""RayS: which way, of corners of a cube, is the nearest image of another class? It asks for decisions alone."""

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
from tfode_adv.attacks.gradient_sources import Source, Transfer
from tfode_adv.errors import UsageError

CLOSE = 1e-3
"""Of eps: how well the length of a ray is known."""
FACTORS = {"linf": (-1.0,), "l2": (-1.0, 0.5, 2.0)}
"""By what a block of the direction is multiplied, in turn; in the largest change, corners are all there is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RayS(Attack):
    """The decision-based attack of Chen and Gu (2020): one query a step, and of its answer the class alone.

    A direction is improved block by block, each block's sign turned where the other class is then nearer, and how near
    by bisection; blocks are halved until they are pixels, and it begins again. Blocks here are rectangles of the image,
    where the paper's are runs of its rows. In the Euclidean norm, for which the paper has none, blocks are halved and
    doubled in size too.

    Args:
      steps: queries in one restart.
      restarts: times a sample that resists is attacked anew, from a random ray.
      source: a `Transfer`, along whose gradient the first ray goes; default: none, and it goes towards white.

    Raises:
      UsageError: another source.
    """

    steps: int = number(5000, low=0)
    restarts: int = number(1, low=1)
    source: Source | None = None

    name: ClassVar[str] = "rays"
    summary: ClassVar[str] = "decisions only: the nearest of a cube's corners (Chen and Gu 2020)"

    def __post_init__(self):
        super().__post_init__()
        if type(self.source) not in (Source, Transfer):
            raise UsageError(f"source is {self.source!r}, but rays takes Transfer or None")

    def costs(self, steps: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(self.source, Transfer):
            return steps + self.source.queries, steps * 0 + self.source.draws
        return steps, steps * 0

    def accept(self, model: Any, x: np.ndarray) -> None:
        super().accept(model, x)
        if x.ndim != 4:
            raise UsageError(f"images have shape {x.shape}, but rays takes [N, H, W, C]")

    def start(self, batch: Batch, numbers: Numbers) -> State:
        ray = self._first(batch)
        whole = norms.length(tf.ones_like(batch.x), self.kind)
        zeros = tf.zeros_like(batch.y)
        return {
            "x_adv": batch.x,
            "ray": ray,
            "proposed": ray,
            # So far away `ray` meets another class; `proposed` does within `high`, if at all, and not within `low`.
            "far": whole,
            "low": tf.zeros_like(whole),
            "high": whole,
            "asked": whole,
            "block": zeros - 1,
        }

    def step(self, batch: Batch, state: State, numbers: Numbers) -> State:
        x, asked, proposed = batch.x, state["asked"], state["proposed"]
        point = _along(x, proposed, asked, self.kind)
        crossed = self.fooled(batch.model(point), batch.y)
        first = asked >= state["far"]
        # The first question of a ray is whether it is shorter at all, the others how short.
        high = tf.where(crossed, asked, state["high"])
        low = tf.where(crossed | first, state["low"], asked)
        closed = (first & ~crossed) | (high - low <= CLOSE * numbers.eps)
        shorter = closed & (high < state["far"])
        far = tf.where(shorter, high, state["far"])
        ray = tf.where(norms.column(shorter, x), proposed, state["ray"])
        block = state["block"] + tf.cast(closed, tf.int32)
        following = self._turned(ray, block)
        best = tf.where(norms.column(crossed, x), point, state["x_adv"])
        return {
            "x_adv": best,
            "ray": ray,
            "proposed": tf.where(norms.column(closed, x), following, proposed),
            "far": far,
            "low": tf.where(closed, 0.0, low),
            "high": tf.where(closed, far, high),
            "asked": tf.where(closed, far, 0.5 * (low + high)),
            "block": block,
            "done": crossed & (norms.length(point - x, self.kind) <= numbers.eps),
        }

    def _first(self, batch: Batch) -> tf.Tensor:
        """Returns the rays that the search begins with: random ones in every restart but the first."""
        ray = tf.ones_like(batch.x)
        if isinstance(self.source, Transfer):
            margin = functools.partial(losses.margin, y=batch.y)
            along = self.source.differentiate(batch.model, margin, batch.x)[2]
            ray = tf.where(along == 0, ray, tf.sign(along))
        random = random_streams.signs(random_streams.fold(batch.key, 0), batch.x.shape[1:])
        return tf.where(norms.column(batch.restart == 0, ray), ray, random)

    def _turned(self, ray: tf.Tensor, block: tf.Tensor) -> tf.Tensor:
        """Returns rays with the block of this number, of all that there are in all sizes, multiplied."""
        labels, stages, within = _blocks(tuple(ray.shape[1:]))
        number = block % len(stages)
        mask = tf.gather(labels, tf.gather(stages, number)) == tf.reshape(tf.gather(within, number), [-1, 1, 1, 1])
        factors = tf.constant(FACTORS[self.kind])
        factor = tf.gather(factors, (block // len(stages)) % len(FACTORS[self.kind]))
        return tf.where(mask, norms.column(factor, ray) * ray, ray)


def _along(x: tf.Tensor, ray: tf.Tensor, length: tf.Tensor, kind: str) -> tf.Tensor:
    """Returns the images [B, ...] in [0, 1] that lie `length` [B] away from `x` along `ray`, or as far as there are."""
    if kind == "linf":
        return tf.clip_by_value(x + norms.column(length, x) * ray, 0.0, 1.0)
    ray = ray / norms.column(norms.length(ray, kind), x)
    low, high = tf.zeros_like(length), length * math.sqrt(math.prod(x.shape[1:]))
    # What is cut off at black and white makes it shorter than the factor says.
    for _ in range(16):
        middle = 0.5 * (low + high)
        short = norms.length(tf.clip_by_value(x + norms.column(middle, x) * ray, 0.0, 1.0) - x, kind) < length
        low, high = tf.where(short, middle, low), tf.where(short, high, middle)
    return tf.clip_by_value(x + norms.column(low, x) * ray, 0.0, 1.0)


@functools.cache
def _blocks(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The image [H, W, C] cut into ever smaller blocks: each stage halves the blocks' longest side.

    Returns:
        The blocks' numbers by stage, [S, H, W, C]; of every block of every stage in turn, its stage and its number.
    """
    parts, labels = [1, 1, 1], []
    stages: list[int] = []
    within: list[int] = []
    while True:
        places = [np.arange(extent) * count // extent for extent, count in zip(shape, parts, strict=True)]
        rows, columns, channels = np.meshgrid(*places, indexing="ij")
        labels.append(((rows * parts[1] + columns) * parts[2] + channels).astype(np.int32))
        count = math.prod(parts)
        stages += [len(labels) - 1] * count
        within += range(count)
        sides = [extent / count for extent, count in zip(shape, parts, strict=True)]
        longest = int(np.argmax(sides))
        if sides[longest] <= 1:
            return np.stack(labels), np.array(stages, np.int32), np.array(within, np.int32)
        parts[longest] = min(shape[longest], 2 * parts[longest])
