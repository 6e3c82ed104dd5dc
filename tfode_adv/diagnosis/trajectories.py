"""How a perturbation travels along t: clean and adversarial states inside every `ODEBlock`.

WIFS 2019, section V and Figure 2: equation 5 is the mean over images of the distance between the clean
and the adversarial state at time t, in L2 and in cosine distance.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from tfode_adv.diagnosis.probe import Probe, calls_of
from tfode_adv.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Travel:
    """The distances inside one block at one tolerance.

    Attributes:
        layer: the block's name.
        times: [T], ascending, in [0, final_time].
        l2, cosine: [T, N], between the clean and the adversarial state of each image; cosine distance
            is 1 - cosine, in [0, 2].
        relative: [T, N], L2 over the clean state's norm.
        labels: [N].
    """

    layer: str
    times: np.ndarray
    l2: np.ndarray
    cosine: np.ndarray
    relative: np.ndarray
    labels: np.ndarray

    def mean(self) -> dict[str, np.ndarray]:
        """Equation 5: the means over images, [T] each."""
        return {"l2": self.l2.mean(axis=1), "cosine": self.cosine.mean(axis=1)}

    def by_class(self) -> dict[int, dict[str, np.ndarray]]:
        """The same for the images of each class present."""
        return {
            int(label): {
                "l2": self.l2[:, self.labels == label].mean(axis=1),
                "cosine": self.cosine[:, self.labels == label].mean(axis=1),
            }
            for label in np.unique(self.labels)
        }

    def growth(self) -> dict[str, np.ndarray | float]:
        """Where in t the perturbation grows.

        Returns:
            midpoints: [T - 1]; rate: [T - 1], mean over images of d log(L2) / dt, per unit of t;
            fastest: the midpoint of the largest rate; amplification: mean of L2 at the end over L2 at
            the start (geometric). Images whose perturbation vanishes somewhere are left out.
        """
        moving = (self.l2 > 0).all(axis=0)
        if not moving.any():
            empty = np.zeros(len(self.times) - 1)
            return {
                "midpoints": _midpoints(self.times),
                "rate": empty,
                "fastest": None,
                "amplification": None,
            }
        logs = np.log(self.l2[:, moving].astype(np.float64))
        rate = (np.diff(logs, axis=0) / np.diff(self.times)[:, None]).mean(axis=1)
        midpoints = _midpoints(self.times)
        return {
            "midpoints": midpoints,
            "rate": rate,
            "fastest": float(midpoints[np.argmax(rate)]),
            "amplification": float(np.exp((logs[-1] - logs[0]).mean())),
        }


def travel(
    probe: Probe,
    clean: np.ndarray,
    adversarial: np.ndarray,
    labels: np.ndarray,
    *,
    tol: float | None = None,
    num_times: int = 21,
) -> list[Travel]:
    """Measures the distances of clean and adversarial states in every block of a model.

    Args:
        probe: the model; its blocks' inputs are those of the whole model at this tolerance.
        clean, adversarial: [N, H, W, C] in [0, 1]; labels: [N].
        tol: the tolerance; None for the model's own.
        num_times: points in t, both ends included, at least 2.

    Returns:
        One `Travel` a block, in the order of the layers. A state of several components (SONet's pair)
        is measured as one long vector.

    Raises:
        UsageError: if the model has no ODE block.
    """
    if not probe.blocks:
        raise UsageError("trajectories need an ODEBlock, and this model has none")

    def ask(images, perturbed):
        with calls_of(probe.blocks) as calls:
            probe.model(tf.concat([images, perturbed], axis=0))
        distances = []
        for block, (start, _) in zip(probe.blocks, calls, strict=True):
            times = tf.linspace(0.0, float(block.final_time), num_times)
            states = block.trajectory(start, times)
            distances += _distances(tf.nest.flatten(states))
        return tuple(tf.transpose(distance) for distance in distances)

    flat = probe.ask(("travel", num_times), ask, {"tol": tol}, clean, adversarial)
    return [
        Travel(
            layer=block.name,
            times=np.linspace(0.0, float(block.final_time), num_times),
            l2=flat[3 * index].T,
            cosine=flat[3 * index + 1].T,
            relative=flat[3 * index + 2].T,
            labels=np.asarray(labels),
        )
        for index, block in enumerate(probe.blocks)
    ]


def _distances(components: list[tf.Tensor]) -> list[tf.Tensor]:
    """L2, cosine and relative distance [T, B] of states [T, 2 B, ...], the clean half first."""
    squares = dots = sizes = other_sizes = 0.0
    for component in components:
        component = tf.cast(component, tf.float32)
        clean, other = tf.split(component, 2, axis=1)
        axes = list(range(2, len(component.shape)))
        squares += tf.reduce_sum((clean - other) ** 2, axes)
        dots += tf.reduce_sum(clean * other, axes)
        sizes += tf.reduce_sum(clean**2, axes)
        other_sizes += tf.reduce_sum(other**2, axes)
    l2 = tf.sqrt(squares)
    cosine = 1.0 - tf.math.divide_no_nan(dots, tf.sqrt(sizes * other_sizes))
    return [l2, cosine, tf.math.divide_no_nan(l2, tf.sqrt(sizes))]


def _midpoints(times: np.ndarray) -> np.ndarray:
    return (times[1:] + times[:-1]) / 2
