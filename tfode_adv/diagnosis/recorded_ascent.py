"""Projected gradient ascent that keeps what happened at every step.

No early stop, no restarts, the last iterate at the end: the plainest form of PGD (Madry et al. 2018),
so that the indicators of a failing attack have something to look at.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfode_adv.attacks import losses, norms
from tfode_adv.attacks.ascent import value_and_gradient
from tfode_adv.diagnosis.probe import Probe


@dataclasses.dataclass(frozen=True)
class Trace:
    """One ascent.

    Attributes:
        losses: [S + 1, N], the loss at each iterate, the start first.
        turned: [S + 1, N] bool, whether the iterate counts as a success.
        x_last: [N, ...], the last iterate.
        x_best: [N, ...], the successful iterate of the greatest loss, else the last.
    """

    losses: np.ndarray
    turned: np.ndarray
    x_last: np.ndarray
    x_best: np.ndarray

    @property
    def found(self) -> np.ndarray:
        """[N] bool: turned at some iterate."""
        return self.turned.any(axis=0)


def ascend(
    probe: Probe,
    x: np.ndarray,
    y: np.ndarray,
    *,
    norm: str,
    eps: float,
    step_size: float,
    steps: int,
    settings: dict[str, Any] | None = None,
    judged: dict[str, Any] | None = None,
) -> Trace:
    """PGD on the margin, every iterate recorded.

    Not on the cross-entropy: in float32 a confident image's is flat, and an honest attack seems not to raise it.

    Args:
        x: [N, ...] in [0, 1]; y: [N].
        norm, eps, step_size, steps: as `tfode_adv.attacks.PGD` takes them.
        settings: the solver settings through which the gradient is taken.
        judged: the settings under which losses and successes are recorded; None: those of the gradient.
    """

    def objective(images, labels):
        margin = losses.margin(probe.shared(images), labels)
        return margin, margin > 0

    return ascend_on(
        probe,
        None,
        objective,
        x,
        y,
        norm=norm,
        eps=eps,
        step_size=step_size,
        steps=steps,
        settings=settings,
        judged=judged,
    )


def ascend_on(
    probe: Probe,
    key: tuple | None,
    objective: Callable[..., tuple[tf.Tensor, tf.Tensor]],
    x: np.ndarray,
    *targets: np.ndarray,
    norm: str,
    eps: float,
    step_size: float,
    steps: int,
    settings: dict[str, Any] | None = None,
    judged: dict[str, Any] | None = None,
) -> Trace:
    """The same for any objective.

    Args:
        key: names an objective that calls the layers itself, and whatever it closes over; None: it asks the probe.
        objective: (images [B, ...], *targets [B, ...]) to (loss [B], success [B]).
        targets: arrays [N, ...], one entry an image.
    """
    settings = settings or {}
    kind, unit = norms.geometry(norm), norms.unit(norm, x.shape[1:])

    def step(x_adv, centre, radius, length, *tensors):
        (loss, success), gradient = value_and_gradient(lambda z: objective(z, *tensors), x_adv, aux=True)
        radius, length = norms.column(radius, centre), norms.column(length, centre)
        return loss, success, norms.ascend(centre, x_adv, gradient, kind, radius, length)

    def ask(name, question, settings, *arrays):
        if key is None:
            return probe.around(question, settings, *arrays)
        return probe.ask((name, key, kind), question, settings, *arrays)

    # The radius goes in as an array, so that a sweep over eps is one trace.
    sizes = [np.full(len(x), unit * size, np.float32) for size in (eps, step_size)]
    current, best, best_loss = x, x, np.full(len(x), -np.inf)
    values, turned = [], []
    for number in range(steps + 1):
        loss, success, following = ask("ascend", step, settings, current, x, *sizes, *targets)
        if judged is not None:
            loss, success = ask("judge", objective, judged, current, *targets)
        values.append(loss)
        turned.append(success)
        better = success & (loss > best_loss)
        best = np.where(_column(better, x), current, best)
        best_loss = np.where(better, loss, best_loss)
        if number < steps:
            current = following
    found = np.any(turned, axis=0)
    return Trace(np.stack(values), np.stack(turned), current, np.where(_column(found, x), best, current))


def _column(mask: np.ndarray, like: np.ndarray) -> np.ndarray:
    return mask.reshape([-1] + [1] * (like.ndim - 1))
