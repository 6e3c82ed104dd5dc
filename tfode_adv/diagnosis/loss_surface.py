"""The loss around an image, along the gradient and along a random direction."""

from typing import Any

import numpy as np

from tfode_adv.analysis.gradients import exact_cross_entropy
from tfode_adv.diagnosis.probe import Probe


def loss_surface(
    probe: Probe,
    image: np.ndarray,
    label: int,
    *,
    eps: float,
    points: int = 21,
    settings: dict[str, Any] | None = None,
    forward: dict[str, Any] | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Cross-entropy over a square around an image.

    Args:
        image: [H, W, C] in [0, 1]; what leaves [0, 1] is clipped.
        eps: half the square's side, every pixel's change at the edge (L-infinity).
        points: on a side.
        settings: solver settings of the gradient; forward: of the loss.
        seed: where the random direction starts.

    Returns:
        offsets: [points], in [-eps, eps]; losses: [points, points], rows along the sign of the
        gradient, columns along a random sign vector.
    """
    labels = np.array([label])
    _, gradient = probe.gradient(image[None], labels, **(settings or {}))
    uphill = np.sign(np.nan_to_num(gradient[0]))
    sideways = np.random.default_rng(seed).choice([-1.0, 1.0], size=image.shape)
    offsets = np.linspace(-eps, eps, points)
    along, across = np.meshgrid(offsets, offsets, indexing="ij")
    grid = image + along.reshape(-1, 1, 1, 1) * uphill + across.reshape(-1, 1, 1, 1) * sideways
    logits = probe.logits(np.clip(grid, 0, 1).astype(np.float32), **(forward or {}))
    losses = exact_cross_entropy(logits, np.full(len(grid), label))
    return offsets, losses.reshape(points, points)
