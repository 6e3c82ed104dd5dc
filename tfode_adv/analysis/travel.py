"""How far apart clean and adversarial states are along t, as numbers (WIFS 2019, section V, equation 5)."""

import dataclasses

import numpy as np


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


def _midpoints(times: np.ndarray) -> np.ndarray:
    return (times[1:] + times[:-1]) / 2
