"""How far apart clean and adversarial states are along t, as numbers (WIFS 2019, section V, equation 5)."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Means:
    """Equation 5: the distances' means over images, [T] each."""

    l2: np.ndarray
    cosine: np.ndarray


@dataclasses.dataclass(frozen=True)
class Growth:
    """Where in t a perturbation grows.

    Attributes:
        midpoints: [T - 1], of the intervals between the times.
        rate: [T - 1], mean over images of d log(L2) / dt, per unit of t.
        fastest: the midpoint of the largest rate; None if no perturbation stays above zero.
        amplification: geometric mean of L2 at the end over L2 at the start; None in that case too.
    """

    midpoints: np.ndarray
    rate: np.ndarray
    fastest: float | None
    amplification: float | None


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

    def mean(self) -> Means:
        """The means over all images."""
        return Means(self.l2.mean(axis=1), self.cosine.mean(axis=1))

    def by_class(self) -> dict[int, Means]:
        """The means over the images of each class present."""
        chosen = {int(label): self.labels == label for label in np.unique(self.labels)}
        return {
            label: Means(self.l2[:, its].mean(axis=1), self.cosine[:, its].mean(axis=1))
            for label, its in chosen.items()
        }

    def growth(self) -> Growth:
        """Where the perturbation grows; images whose perturbation vanishes somewhere are left out."""
        moving = (self.l2 > 0).all(axis=0)
        midpoints = (self.times[1:] + self.times[:-1]) / 2
        if not moving.any():
            return Growth(midpoints, np.zeros(len(self.times) - 1), None, None)
        logs = np.log(self.l2[:, moving].astype(np.float64))
        rate = (np.diff(logs, axis=0) / np.diff(self.times)[:, None]).mean(axis=1)
        return Growth(midpoints, rate, float(midpoints[np.argmax(rate)]), float(np.exp((logs[-1] - logs[0]).mean())))
