"""Are the gradients that attacks follow the loss's own?

The same weights are differentiated in every way an attack could (backpropagation through the accepted
steps, the adjoint ODE at the tested tolerance, the adjoint at a fine one) and held against finite differences of the
loss as the model computes it at the tested tolerance.

The loss is the margin, the best rival's logit less the label's, which confidence does not flatten. Differences stay
within [0, 1], where a model is defined, and are taken at several scales: at the smallest a straight-through quantiser's
honest gradient looks wrong, as nothing changes or all at once; at the attack's own, a rippled surface's exact one.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tfode_adv.analysis.gradients import Audit, cosine, flat, length, margin, same_sign
from tfode_adv.diagnosis.probe import Probe

# Of eps: how far the differences go; the last two are an attack's own scales.
SCALES = (1 / 100, 1 / 30, 1 / 8, 1 / 2)
ATTACK_SCALES = SCALES[2:]
# A pixel whose derivative is less than that, of the largest of its image, has none.
VANISHED = 1e-6


def audit(
    probe: Probe,
    x: np.ndarray,
    y: np.ndarray,
    sources: dict[str, dict[str, Any]],
    *,
    forward: dict[str, Any] | None = None,
    eps: float = 0.1,
    directions: int = 16,
    probe_size: float = 1e-3,
    seed: int = 0,
) -> Audit:
    """Audits the gradients at one tolerance.

    Args:
        probe: the model.
        x: [N, ...] images in [0, 1]; y: [N] labels.
        sources: by name, the solver settings through which a gradient is taken; the first is the
            reference.
        forward: the settings of the loss itself.
        eps: the attack's radius, as the change of every pixel.
        directions: random sign vectors along which differences are taken.
        probe_size: largest change of a pixel by the noise of `noise_change`.
        seed: where the random directions and the noise start.
    """
    rng = np.random.default_rng(seed)
    forward = forward or {}
    gradients = {name: probe.margin_gradient(x, y, **settings) for name, settings in sources.items()}
    reference = next(iter(sources))
    none = (flat(gradients[reference]) == 0).all(axis=1)
    reproduced = _reproduced(probe, x, y, sources, gradients, rng.permutation(len(x)))

    def loss(images: np.ndarray) -> np.ndarray:
        return margin(probe.logits(images.astype(np.float32), **forward), y)

    signs = [rng.choice([-1.0, 1.0], size=x.shape) for _ in range(directions)]
    clean, clean_steps = loss(x), probe.steps(x, **forward)[0]
    # What two asks differ by without any change: rounding, or the model's own noise.
    floor = np.abs(loss(x) - clean)
    floor = max(float(np.median(floor)), 1e-6 * float(np.median(np.abs(clean))))
    predicted: dict[str, list] = {name: [] for name in sources}
    measured = []
    for scale in SCALES:
        pairs = [(np.clip(x + scale * eps * sign, 0, 1), np.clip(x - scale * eps * sign, 0, 1)) for sign in signs]
        measured.append(np.stack([loss(there) - loss(back) for there, back in pairs]))
        for name, gradient in gradients.items():
            predicted[name].append(_predict(gradient, [there - back for there, back in pairs]))
    # An image whose loss changes by no more than that tells nothing of a gradient.
    changes = [np.abs(one).max(axis=0) > 4 * floor for one in measured]
    cosines = {
        name: np.stack([_known(cosine(p.T, m.T), c) for p, m, c in zip(values, measured, changes, strict=True)])
        for name, values in predicted.items()
    }
    # A step aside, either way: at the kink of a ReLU there is no derivative, and a pixel further there is.
    aside = [np.clip(x + side * SCALES[0] * eps * signs[0], 0, 1).astype(np.float32) for side in (1, -1)]
    without = _vanished([gradients[reference], *(probe.margin_gradient(one, y, **sources[reference]) for one in aside)])
    noisy = [np.clip(x + probe_size * direction, 0, 1).astype(np.float32) for direction in signs[:4]]
    noise_change = [np.abs(loss(image) - clean) / max(float(np.median(np.abs(clean))), 1e-12) for image in noisy]
    changed = [(probe.steps(image, **forward)[0] != clean_steps).any(axis=1) for image in noisy]

    def rises(gradient: np.ndarray) -> np.ndarray:
        step = max(probe_size, SCALES[0] * eps) * np.sign(np.nan_to_num(gradient))
        return loss(np.clip(x + step, 0, 1)) > loss(np.clip(x - step, 0, 1))

    return Audit(
        image=np.arange(len(x)),
        sources=list(sources),
        gradients=gradients,
        cosine={name: _known(cosine(g, gradients[reference]), ~none) for name, g in gradients.items()},
        sign_agreement={name: same_sign(g, gradients[reference]) for name, g in gradients.items()},
        relative_norm={name: length(g) / length(gradients[reference]) for name, g in gradients.items()},
        difference_cosine={name: _best(values) for name, values in cosines.items()},
        attack_cosine={name: _best(values[-len(ATTACK_SCALES) :]) for name, values in cosines.items()},
        uphill={name: rises(g) for name, g in gradients.items()},
        reproduced=reproduced,
        varies=np.any(changes, axis=0),
        blind=_blind(without, lambda step: loss(np.clip(x + eps * step, 0, 1)) - clean, signs, floor),
        saturated=loss_saturated(probe.gradient(x, y, **sources[reference])[1], gradients[reference]),
        noise_change=np.mean(noise_change, axis=0),
        step_changes=float(np.mean(changed)) if probe.blocks else None,
        at_rest=float(np.mean(probe.at_rest(x, **forward) > 0)) if probe.blocks else None,
    )


def loss_saturated(cross_entropy: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """At which of several points [N] the cross-entropy's gradient [N, ...] is zero and the margin's is not."""
    return (flat(cross_entropy) == 0).all(axis=1) & (flat(margins) != 0).any(axis=1)


def _vanished(gradients: list[np.ndarray]) -> np.ndarray:
    """Which pixels [N, ...] have no derivative at any of several places, of those that have a finite one at all."""
    sizes = np.abs(gradients)
    known = np.isfinite(sizes).all(axis=0)
    size = np.where(known, np.nan_to_num(sizes, posinf=0.0).max(axis=0), 0.0)
    largest = size.max(axis=tuple(range(1, size.ndim)), keepdims=True)
    return known & (size < VANISHED * largest)


def _blind(
    without: np.ndarray, change: Callable[[np.ndarray], np.ndarray], signs: list[np.ndarray], floor: float
) -> np.ndarray:
    """How much the loss changes at the attack's scale by the pixels `without` a derivative alone, of what all do; [N].

    Args:
        change: of the loss by a step, in units of eps.
    """
    half = signs[: len(signs) // 2]
    alone, everything = (
        np.sqrt(np.mean([change(sign * pixels) ** 2 for sign in half], axis=0)) for pixels in (without, 1.0)
    )
    return np.divide(alone, everything, out=np.zeros(len(without)), where=everything > 4 * floor)


def _reproduced(
    probe: Probe,
    x: np.ndarray,
    y: np.ndarray,
    sources: dict[str, dict[str, Any]],
    gradients: dict[str, np.ndarray],
    shuffled: np.ndarray,
) -> dict[str, np.ndarray]:
    """By source, the cosine [N] of the same gradient taken twice, the second time in the order `shuffled`."""
    back = np.argsort(shuffled)
    # An attacker's call gets one run of a randomised model.
    with probe.single_runs():
        if probe.random:
            gradients = {name: probe.margin_gradient(x, y, **settings) for name, settings in sources.items()}
        again = {name: probe.margin_gradient(x[shuffled], y[shuffled], **each)[back] for name, each in sources.items()}
    return {name: cosine(again[name], gradient, both_zero=1.0) for name, gradient in gradients.items()}


def _known(cosines: np.ndarray, known: np.ndarray) -> np.ndarray:
    return np.where(known, cosines, np.nan)


def _best(by_scale: np.ndarray) -> np.ndarray:
    """The cosines [N] of the scale whose median is best; NaN for the images that tell nothing there."""
    medians = [np.nanmedian(one) if np.isfinite(one).any() else -np.inf for one in by_scale]
    return by_scale[int(np.argmax(medians))]


def _predict(gradient: np.ndarray, directions: list[np.ndarray]) -> np.ndarray:
    rows = flat(gradient).astype(np.float64)
    return np.stack([(rows * flat(direction)).sum(axis=1) for direction in directions])
