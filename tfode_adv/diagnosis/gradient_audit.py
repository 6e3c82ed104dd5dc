"""Are the gradients that attacks follow the loss's own?

The same weights are differentiated in every way an attack could (backpropagation through the accepted
steps, the adjoint ODE at the tested tolerance, the adjoint at a fine one) and held against finite differences of the
loss as the model computes it at the tested tolerance.

The loss is the margin, the best rival's logit less the label's, which confidence does not flatten. Differences stay
within [0, 1], where a model is defined, and are taken at several scales: at the smallest a straight-through quantiser's
honest gradient looks wrong, as nothing changes or all at once; at the attack's own, a rippled surface's exact one.
"""

import dataclasses
from typing import Any

import numpy as np

from tfode_adv.diagnosis.probe import Probe


@dataclasses.dataclass(frozen=True)
class Audit:
    """The measurements of one model at one tolerance.

    Attributes:
        sources: names, the reference first.
        gradients: by source, [N, ...].
        cosine, sign_agreement, relative_norm: by source, [N], against the reference source.
        difference_cosine: by source, [N]: cosine of the changes that the gradient predicts along random directions
            with those measured, at the scale that agrees best; NaN for an image whose loss does not change.
        attack_cosine: by source, [N]: the same at the scales of an attack, an eighth and half of eps.
        uphill: by source, [N] bool: the measured loss rises along the gradient's sign.
        reproduced: by source, [N]: cosine of the same gradient taken twice, in shuffled batches.
        varies: [N] bool: whether the loss changes anywhere that was looked at, beyond a randomised model's noise.
        saturated: [N] bool: whether the cross-entropy's gradient, which attacks follow, is zero in float32.
        noise_change: [N]: mean |loss(x + noise) - loss(x)| for noise of `probe_size`, of the images' median |loss|.
        step_changes: share of (image, noise of `probe_size`) pairs in which the number of accepted
            steps changed; None without ODE blocks.
    """

    sources: list[str]
    gradients: dict[str, np.ndarray]
    cosine: dict[str, np.ndarray]
    sign_agreement: dict[str, np.ndarray]
    relative_norm: dict[str, np.ndarray]
    difference_cosine: dict[str, np.ndarray]
    attack_cosine: dict[str, np.ndarray]
    uphill: dict[str, np.ndarray]
    reproduced: dict[str, np.ndarray]
    varies: np.ndarray
    saturated: np.ndarray
    noise_change: np.ndarray
    step_changes: float | None

    def rows(self) -> list[list]:
        """One row a source: name and the measurements' medians or shares, as `COLUMNS` names them."""
        return [
            [
                name,
                _median(self.cosine[name]),
                _mean(self.sign_agreement[name]),
                _median(self.relative_norm[name]),
                _median(self.difference_cosine[name]),
                _mean(self.uphill[name]),
                _mean(~np.isfinite(_flat(self.gradients[name])).all(axis=1)),
                _mean((_flat(self.gradients[name]) == 0).all(axis=1)),
            ]
            for name in self.sources
        ]


COLUMNS = [
    "gradient",
    "cosine with the first",
    "same sign",
    "relative norm",
    "cosine with finite differences",
    "loss rises along it",
    "not finite",
    "zero",
]


# Of eps: how far the differences go; the last two are an attack's own scales.
SCALES = (1 / 100, 1 / 30, 1 / 8, 1 / 2)
ATTACK_SCALES = SCALES[2:]


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
        probe_size: of the noise for `noise_change`.
        seed: of the directions and the noise.
    """
    rng = np.random.default_rng(seed)
    forward = forward or {}
    gradients = {name: probe.margin_gradient(x, y, **settings) for name, settings in sources.items()}
    shuffled = rng.permutation(len(x))
    again = {
        name: probe.margin_gradient(x[shuffled], y[shuffled], **settings)[np.argsort(shuffled)]
        for name, settings in sources.items()
    }

    def loss(images: np.ndarray) -> np.ndarray:
        return margin(probe.logits(images.astype(np.float32), **forward), y)

    signs = [rng.choice([-1.0, 1.0], size=x.shape) for _ in range(directions)]
    clean, clean_steps = loss(x), probe.steps(x, **forward)[0]
    # What two asks differ by without any change: rounding, or the model's own noise.
    floor = np.abs(loss(x) - clean)
    floor = max(float(np.median(floor)), 1e-6 * float(np.median(np.abs(clean))))
    predicted, measured = {name: [] for name in sources}, []
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
    reference = next(iter(sources))
    noisy = [np.clip(x + probe_size * direction, 0, 1).astype(np.float32) for direction in signs[:4]]
    noise_change = [np.abs(loss(image) - clean) / max(float(np.median(np.abs(clean))), 1e-12) for image in noisy]
    changed = [(probe.steps(image, **forward)[0] != clean_steps).any(axis=1) for image in noisy]

    def rises(gradient: np.ndarray) -> np.ndarray:
        step = max(probe_size, SCALES[0] * eps) * np.sign(np.nan_to_num(gradient))
        return loss(np.clip(x + step, 0, 1)) > loss(np.clip(x - step, 0, 1))

    return Audit(
        sources=list(sources),
        gradients=gradients,
        cosine={name: cosine(g, gradients[reference]) for name, g in gradients.items()},
        sign_agreement={name: _same_sign(g, gradients[reference]) for name, g in gradients.items()},
        relative_norm={name: _norm(g) / _norm(gradients[reference]) for name, g in gradients.items()},
        difference_cosine={name: _best(values) for name, values in cosines.items()},
        attack_cosine={name: _best(values[-len(ATTACK_SCALES) :]) for name, values in cosines.items()},
        uphill={name: rises(g) for name, g in gradients.items()},
        reproduced={name: cosine(again[name], g, both_zero=1.0) for name, g in gradients.items()},
        varies=np.any(changes, axis=0),
        saturated=(_flat(probe.gradient(x, y, **sources[reference])[1]) == 0).all(axis=1),
        noise_change=np.mean(noise_change, axis=0),
        step_changes=float(np.mean(changed)) if probe.blocks else None,
    )


def margin(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The best rival's logit less the label's [N], in float64: above 0 where the image is misclassified."""
    logits = np.array(logits, np.float64)
    rows = np.arange(len(y))
    label = logits[rows, y]
    logits[rows, y] = -np.inf
    return logits.max(axis=1) - label


def _known(cosines: np.ndarray, known: np.ndarray) -> np.ndarray:
    return np.where(known, cosines, np.nan)


def _best(by_scale: np.ndarray) -> np.ndarray:
    """The cosines [N] of the scale whose median is best; NaN for the images that tell nothing there."""
    medians = [np.nanmedian(one) if np.isfinite(one).any() else -np.inf for one in by_scale]
    return by_scale[int(np.argmax(medians))]


def exact_cross_entropy(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Cross-entropy [N] in float64, accurate where it is far below float32's rounding of 1.

    A confident image's loss is log(1 + sum of exp(z_j - z_y)), which differences need to full
    relative precision.
    """
    logits = np.asarray(logits, np.float64)
    others = logits - logits[np.arange(len(y)), y][:, None]
    others[np.arange(len(y)), y] = -np.inf
    top = np.maximum(others.max(axis=1), 0.0)
    rest = np.exp(others - top[:, None]).sum(axis=1)
    return np.where(top > 0, top + np.log(np.exp(-top) + rest), np.log1p(rest))


def cosine(a: np.ndarray, b: np.ndarray, both_zero: float = 0.0) -> np.ndarray:
    """Cosine [N] of arrays [N, ...]; 0 where one is zero or not finite, `both_zero` where both are zero."""
    a, b = _flat(a).astype(np.float64), _flat(b).astype(np.float64)
    usable = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    a, b = np.where(usable[:, None], a, 0), np.where(usable[:, None], b, 0)
    size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    result = np.divide((a * b).sum(axis=1), size, out=np.zeros(len(a)), where=size > 0)
    zero = usable & (a == 0).all(axis=1) & (b == 0).all(axis=1)
    return np.where(zero, both_zero, result)


def _predict(gradient: np.ndarray, directions: list[np.ndarray]) -> np.ndarray:
    flat = _flat(gradient).astype(np.float64)
    return np.stack([(flat * _flat(direction)).sum(axis=1) for direction in directions])


def _same_sign(gradient: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Share of the elements [N] with the reference's sign, where the reference has one."""
    signed = _flat(reference) != 0
    agree = (np.sign(_flat(gradient)) == np.sign(_flat(reference))) & signed
    return np.divide(agree.sum(axis=1), signed.sum(axis=1), out=np.zeros(len(agree)), where=signed.any(axis=1))


def _norm(gradient: np.ndarray) -> np.ndarray:
    # The smallest normal number, so that a zero reference gives a finite ratio.
    return np.maximum(np.linalg.norm(_flat(gradient).astype(np.float64), axis=1), np.finfo(np.float32).tiny)


def _flat(array: np.ndarray) -> np.ndarray:
    return np.reshape(array, (len(array), int(np.prod(np.shape(array)[1:]))))


def _median(values: np.ndarray) -> float | None:
    known = np.asarray(values)[np.isfinite(values)]
    return float(np.median(known)) if known.size else None


def _mean(values: np.ndarray) -> float | None:
    return float(np.mean(values)) if np.size(values) else None
