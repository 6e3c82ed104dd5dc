"""SPSA: Adam on gradients estimated from pairs of queries."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf
from cleverhans.tf2.attacks import spsa as cleverhans

from tfode_adv.attacks import losses, norms, random_streams
from tfode_adv.attacks.base import Attack
from tfode_adv.attacks.checks import number
from tfode_adv.attacks.engine import Batch, Numbers, State
from tfode_adv.attacks.gradient_sources import in_parts
from tfode_adv.errors import UsageError


@dataclasses.dataclass(frozen=True)
class SPSAAdam:
    """CleverHans' optimiser of that name, for batches and with the draws handed in.

    Its update rule, state and `minimize` are CleverHans' own functions; its constructor (Keras 3 has
    no `Adam(lr=...)`) and its estimate for a single image are replaced.

    Args:
      lr: Adam's learning rate.
      beta_1, beta_2, epsilon: Adam's other constants.
      delta: size of the perturbations that the differences are taken over.
      signs: maps the estimate's number to [B, S, ...] of -1 and 1.
      estimates: how many estimates make one step's gradient.
    """

    lr: tf.Tensor
    delta: tf.Tensor
    signs: Callable[[int], tf.Tensor]
    estimates: int = 1
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    minimize = cleverhans.SPSAAdam.minimize
    _apply_gradients = cleverhans.SPSAAdam._apply_gradients

    def init_state(self, x: list[tf.Tensor]) -> dict[str, Any]:
        """Returns the optimiser's state for the tensors `x`, its clock one a sample."""
        state = cleverhans.SPSAAdam.init_state(self, x)
        return {**state, "t": tf.zeros([tf.shape(x[0])[0]] + [1] * (x[0].shape.rank - 1))}

    def _compute_gradients(self, loss_fn, x):
        (x,) = x
        return [tf.add_n([self._estimate(loss_fn, x, i) for i in range(self.estimates)])]

    def _estimate(self, loss_fn, x, number):
        half = self.delta * self.signs(number)
        offsets = tf.concat([half, -half], axis=1)
        points = tf.reshape(x[:, None] + offsets, [-1, *x.shape[1:]])
        values = tf.reshape(loss_fn(points), [-1, offsets.shape[1]] + [1] * (x.shape.rank - 1))
        # Where a solve failed on one of two mirrored points, neither tells a direction.
        both = tf.reduce_all(tf.math.is_finite(tf.stack(tf.split(values, 2, axis=1))), axis=0)
        values = tf.where(tf.concat([both, both], axis=1), values, 0.0)
        return tf.reduce_mean(values * offsets, axis=1) / self.delta


@dataclasses.dataclass(frozen=True, kw_only=True)
class SPSA(Attack):
    """The gradient-free attack of Uesato et al. (2018), on CleverHans' loop, for batches.

    It minimises the margin of the logits with Adam, from a random point of the ball.

    Args:
      steps: Adam's steps.
      samples: queries for one estimate, an even number: half of them mirror the other half.
      estimates: estimates summed (as CleverHans does) for one step.
      delta: size of the differences, in pixel values.
      learning_rate: Adam's, in pixel values.
      early_stop: a sample ends at its first success that holds on a fresh pass, asked with one more query a step.
      targeted: the labels are classes to reach, not to leave.
    """

    steps: int = number(100, low=0)
    samples: int = number(128, structural=True, low=2)
    estimates: int = number(1, structural=True, low=1)
    delta: float = number(0.01, low=0, low_open=True)
    learning_rate: float = number(0.01, low=0, low_open=True)
    restarts: int = number(1, low=1)
    early_stop: bool = True
    targeted: bool = False

    name: ClassVar[str] = "spsa"
    summary: ClassVar[str] = "gradient-free, estimates from random differences (Uesato et al. 2018)"
    random_start: ClassVar[bool] = True
    default_batch_size: ClassVar[int] = 1024

    def __post_init__(self):
        super().__post_init__()
        if self.samples % 2:
            raise UsageError(f"samples is {self.samples}, but must be even: each query has its mirror image")

    def rows(self, num_classes: int) -> int:
        return self.samples

    def costs(self, steps: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
        each = self.samples * self.estimates + (1 if self.early_stop else 0)
        return steps * each, steps * 0

    def start(self, batch: Batch, numbers: Numbers) -> State:
        delta = norms.random_delta(random_streams.fold(batch.key, 0), batch.x, self.kind, numbers.eps)
        x_adv = norms.inside(batch.x, delta, self.kind, numbers.eps)
        return {"x_adv": x_adv, "adam": self._adam(batch, numbers).init_state([x_adv])}

    def step(self, batch: Batch, state: State, numbers: Numbers) -> State:
        x, delta = batch.x, state["x_adv"] - batch.x

        def loss(points):
            """The margin, positive where the label wins; the other way round if targeted."""
            images = points + tf.repeat(x, self.samples, axis=0)
            y = tf.repeat(batch.y, self.samples)
            logits = self._ask(batch, images)
            level = tf.repeat(batch.level, self.samples, axis=0)
            return -losses.margin(level * logits, y, self.targeted)

        (delta,), adam = self._adam(batch, numbers).minimize(loss, [delta], state["adam"])
        x_next = norms.inside(x, delta, self.kind, numbers.eps)
        if not self.early_stop:
            return {"x_adv": x_next, "adam": adam}
        return {"x_adv": x_next, "adam": adam, "done": self.fooled(batch.model(x_next), batch.y)}

    def _ask(self, batch, images):
        """Returns the logits of all samples' images; of one sample's, in parts where they are too many at once."""
        if self.batch_size is None:
            return batch.model(images)
        return tf.reshape(in_parts(batch.model, images, self.samples, self.batch_size, 1)[0], [-1, batch.classes])

    def _adam(self, batch, numbers):
        def signs(number):
            key = random_streams.fold(batch.key, 1, batch.k, number)
            return random_streams.signs(key, [self.samples // 2, *batch.x.shape[1:]])

        return SPSAAdam(numbers.learning_rate, numbers.delta, signs, self.estimates)
