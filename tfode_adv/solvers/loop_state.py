"""What the solver's loop is asked for, and what it carries from step to step."""

import dataclasses
from typing import Any, NamedTuple

import tensorflow as tf

from tfode_adv.solvers import runge_kutta as rk
from tfode_adv.solvers.step_size_control import IController
from tfode_adv.solvers.tableaus import Tableau


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a solve is asked for.

    Attributes:
        num_steps: number of equal steps, for a method without an error estimate.
        first_step: size of the first step (a scalar or one a sample), or None for Hairer's.
        max_num_steps: steps tried, rejected ones included, before a sample fails.
        endpoint: "interpolate": the last step may pass the end, and the state is read off the dense output;
            "clip": the last step is shortened to end there.
        min_step: size below which no step is proposed; a sample that is rejected with it fails.
        max_step: size above which no step is proposed, or None.
    """

    method: Tableau
    controller: IController = IController()
    num_steps: Any = 1
    first_step: Any = None
    max_num_steps: Any = 10_000
    endpoint: str = "interpolate"
    min_step: Any = None
    max_step: Any = None

    def read(self) -> "Settings":
        """The same, with the present values of what are variables."""
        variables = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values = {k: tf.convert_to_tensor(v) for k, v in variables.items() if isinstance(v, tf.Variable)}
        return dataclasses.replace(self, **values)

    def bounded(self, step: tf.Tensor) -> tf.Tensor:
        """`step` between `min_step` and `max_step`."""
        if self.min_step is not None:
            step = tf.maximum(step, rk.exact(self.min_step, step.dtype))
        return step if self.max_step is None else tf.minimum(step, rk.exact(self.max_step, step.dtype))

    @property
    def lands_on_end(self) -> bool:
        return self.endpoint == "clip" or not self.method.adaptive


class Batch(NamedTuple):
    """The samples still integrated, n of the B of the full batch."""

    index: tf.Tensor  # place in the full batch
    active: tf.Tensor  # neither finished nor failed
    t: tf.Tensor
    step: tf.Tensor
    ratio: tf.Tensor  # error ratio of the last accepted step
    rtol: tf.Tensor
    atol: tf.Tensor
    y: list[tf.Tensor]
    slope: list[tf.Tensor]  # at (t, y); empty for methods that do not reuse it


class Totals(NamedTuple):
    """What is known of each sample of the full batch: numbers side by side, to be brought up to date at once.

    Attributes:
        counts: `[B, 5]`: steps accepted and rejected, those with an error of exactly zero, those of them after which
            the field was asked for the next step's size; the status.
        reached: `[B, 2]`: the time reached, the next step's size proposed.
    """

    counts: tf.Tensor
    reached: tf.Tensor

    @classmethod
    def at_start(cls, status: tf.Tensor, t: tf.Tensor, step: tf.Tensor) -> "Totals":
        zeros = tf.zeros_like(status)
        return cls(tf.stack([zeros, zeros, zeros, zeros, status], 1), tf.stack([t, step], 1))

    def update(self, index: tf.Tensor, happened: tuple, status: tf.Tensor, t: tf.Tensor, step: tf.Tensor) -> "Totals":
        where = index[:, tf.newaxis]
        added = tf.concat([tf.cast(tf.stack(happened, 1), tf.int32), status[:, tf.newaxis]], 1)
        return Totals(
            tf.tensor_scatter_nd_add(self.counts, where, added),
            tf.tensor_scatter_nd_update(self.reached, where, tf.stack([t, step], 1)),
        )

    @property
    def accepted(self) -> tf.Tensor:
        return self.counts[:, 0]

    @property
    def rejected(self) -> tf.Tensor:
        return self.counts[:, 1]

    @property
    def at_rest(self) -> tf.Tensor:
        return self.counts[:, 2]

    @property
    def asked(self) -> tf.Tensor:
        return self.counts[:, 3]

    @property
    def status(self) -> tf.Tensor:
        return self.counts[:, 4]

    @property
    def t(self) -> tf.Tensor:
        return self.reached[:, 0]

    @property
    def step(self) -> tf.Tensor:
        return self.reached[:, 1]


class Attempt(NamedTuple):
    """One step tried by the n samples of a `Batch`, and what became of it."""

    t_next: tf.Tensor
    h: tf.Tensor
    y_next: list[tf.Tensor]
    slopes: list[list[tf.Tensor]]
    ratio: tf.Tensor  # error over tolerance
    accepted: tf.Tensor
    failed: tf.Tensor | None = None
    step_next: tf.Tensor | None = None


class Outcome(NamedTuple):
    """How the n samples of a `Batch` go on after an `Attempt`."""

    t: tf.Tensor
    step: tf.Tensor
    ratio: tf.Tensor
    y: list[tf.Tensor]
    slope: list[tf.Tensor]
    status: tf.Tensor  # of samples that are not finished
    at_rest: tf.Tensor  # accepted with an error of exactly zero
