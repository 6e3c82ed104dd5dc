"""An adversarial example is planted; an attack that misses it is too weak to be quoted.

The binarization test of Zimmermann et al., "Increasing Confidence in Adversarial Robustness
Evaluations", NeurIPS 2022, section 3. For every image the classifier's last layer is replaced by a
linear readout of its own, fitted on the frozen features: class 0 for points well inside the ball of
radius eps, class 1 for one point on its surface. That point is an adversarial example by construction.
Unlike the paper's, our class 0 also holds other random points of the surface: without them the readout
learns how strong the noise is, and chance finds the example as well as an attack does.
"""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from tfode_adv.attacks import norms
from tfode_adv.diagnosis import recorded_ascent
from tfode_adv.diagnosis.probe import Probe

INNER_SHARE = 0.95
# Regularisation of the readouts, strongest first, as a share of the features' scatter.
RIDGES = (1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


@dataclasses.dataclass(frozen=True)
class Planted:
    """What the test found.

    Attributes:
        planted: [N] bool: a readout could be fitted that separates the planted point from the inner ones.
        found: [N] bool: the attack found an example of class 1 in the ball (False where none is planted).
        by_chance: share of fresh random points on the surface that are of class 1: how easy the test is.
    """

    planted: np.ndarray
    found: np.ndarray
    by_chance: float


def run(
    probe: Probe,
    x: np.ndarray,
    *,
    norm: str,
    eps: float,
    step_size: float,
    steps: int,
    settings: dict[str, Any] | None = None,
    forward: dict[str, Any] | None = None,
    inner: int = 48,
    decoys: int = 16,
    closeness: float = 0.5,
    seed: int = 0,
) -> Planted:
    """Plants an example beside every image and lets plain PGD look for it.

    Args:
        x: [N, ...] in [0, 1].
        norm, eps, step_size, steps: the attack under test, plain PGD.
        settings: solver settings through which its gradient is taken; forward: those of the model tested.
        inner, decoys: points inside the ball, and on its surface, that the readout must call class 0.
        closeness: where between the highest inner score (0) and the planted one (1) the boundary lies.
        seed: where the random points start.
    """
    rng = np.random.default_rng(seed)
    forward = forward or {}
    kind, radius = norms.geometry(norm), eps * norms.unit(norm, x.shape[1:])

    def look(points: np.ndarray) -> np.ndarray:
        """Features [K, N, F] of points [K, N, ...]."""
        joined = points.reshape(-1, *points.shape[2:])
        found = probe.around(lambda images: (probe.features(images),), forward, joined)[0]
        return found.reshape(*points.shape[:2], -1)

    surface = look(_surface(rng, x, 1, kind, radius))[0]
    drawn = [_inside(rng, x, inner - 1, kind, INNER_SHARE * radius), _surface(rng, x, decoys, kind, radius)]
    inside = look(np.concatenate([x[None], *drawn]))
    fitted = [readout(inside[:, image], surface[image], closeness) for image in range(len(x))]
    planted = np.array([fit is not None for fit in fitted], bool)
    weights = np.stack([fit[0] if fit else np.zeros(surface.shape[1]) for fit in fitted]).astype(np.float32)
    biases = np.array([fit[1] if fit else -1.0 for fit in fitted], np.float32)

    fresh = look(_surface(rng, x, 8, kind, radius))
    by_chance = ((fresh * weights).sum(axis=-1) + biases > 0)[:, planted]

    def objective(images, weight, bias):
        score = tf.reduce_sum(probe.features(images) * weight, axis=-1) + bias
        return tf.nn.softplus(score), score > 0

    trace = recorded_ascent.ascend_on(
        probe,
        None,
        objective,
        x,
        weights,
        biases,
        norm=norm,
        eps=eps,
        step_size=step_size,
        steps=steps,
        settings=settings,
        judged=None if settings == forward else forward,
    )
    return Planted(planted, trace.found & planted, float(by_chance.mean()) if by_chance.size else 0.0)


def readout(inside: np.ndarray, planted: np.ndarray, closeness: float) -> tuple[np.ndarray, float] | None:
    """A linear score that is negative on every inner point and positive on the planted one.

    Args:
        inside: [K, F] features of inner points; planted: [F].
        closeness: in (0, 1).

    Returns:
        Weights [F] and bias, scaled so that the planted point's score minus the highest inner one is 2;
        None where no regularised least-squares direction separates them. The strongest regularisation
        that separates is taken, lest the readout hang on one feature that is dead but at the planted point.
    """
    points = np.concatenate([inside, planted[None]]).astype(np.float64)
    centre, targets = points.mean(axis=0), np.append(np.zeros(len(inside)), 1.0)
    points -= centre
    gram = points @ points.T
    size = np.trace(gram)
    if not np.isfinite(size) or size <= 0:
        return None
    for ridge in RIDGES:
        lifted = gram + ridge * size * np.eye(len(points))
        weights = points.T @ np.linalg.solve(lifted, targets - targets.mean())
        scores = points @ weights
        top, peak = scores[:-1].max(), scores[-1]
        if peak - top > 1e-3 * np.ptp(scores):
            weights *= 2 / (peak - top)
            boundary = (top + closeness * (peak - top)) * 2 / (peak - top)
            return weights, float(-boundary - centre @ weights)
    return None


def _surface(rng: np.random.Generator, x: np.ndarray, count: int, kind: str, radius: float) -> np.ndarray:
    """Points [count, N, ...] at distance `radius`, as far as [0, 1] lets them be."""
    if kind == "linf":
        delta = rng.choice([-radius, radius], size=(count, *x.shape))
        # A pixel at the edge of [0, 1] can only go one way.
        delta = np.where((x + delta < 0) | (x + delta > 1), -delta, delta)
    else:
        delta = radius * _unit_directions(rng, (count, *x.shape))
    return np.clip(x + delta, 0, 1).astype(np.float32)


def _inside(rng: np.random.Generator, x: np.ndarray, count: int, kind: str, radius: float) -> np.ndarray:
    """Points [count, N, ...] uniform in the ball, clipped to [0, 1]."""
    if kind == "linf":
        delta = rng.uniform(-radius, radius, size=(count, *x.shape))
    else:
        scale = rng.uniform(size=(count, len(x))) ** (1 / np.prod(x.shape[1:]))
        delta = radius * scale.reshape(count, len(x), *[1] * (x.ndim - 1))
        delta = delta * _unit_directions(rng, (count, *x.shape))
    return np.clip(x + delta, 0, 1).astype(np.float32)


def _unit_directions(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    direction = rng.standard_normal(shape)
    axes = tuple(range(2, len(shape)))
    return direction / np.sqrt((direction**2).sum(axis=axes, keepdims=True))
