"""Are the gradients that attacks follow the loss's own?

The same weights are differentiated in every way an attack could (backpropagation through the accepted
steps, the adjoint ODE at the tested tolerance, the adjoint at a fine one) and held against central
finite differences of the loss as the model computes it at the tested tolerance.
"""

import dataclasses
from typing import Any

import numpy as np

from tfode_adv.analysis.probe import Probe


@dataclasses.dataclass(frozen=True)
class Audit:
    """The measurements of one model at one tolerance.

    Attributes:
        sources: names, the reference first.
        gradients: by source, [N, ...].
        cosine, sign_agreement, relative_norm: by source, [N], against the reference source.
        difference_cosine: by source, [N]: cosine of the directional derivatives that the gradient
            predicts along random directions with those that central differences measure.
        uphill: by source, [N] bool: the measured loss rises along the gradient's sign.
        reproduced: by source, [N]: cosine of the same gradient taken twice, in shuffled batches.
        noise_change: [N]: mean |loss(x + noise) - loss(x)| / loss(x) for noise of `probe_size`.
        step_changes: share of (image, noise of `probe_size`) pairs in which the number of accepted
            steps changed; None without ODE blocks.
    """

    sources: list[str]
    gradients: dict[str, np.ndarray]
    cosine: dict[str, np.ndarray]
    sign_agreement: dict[str, np.ndarray]
    relative_norm: dict[str, np.ndarray]
    difference_cosine: dict[str, np.ndarray]
    uphill: dict[str, np.ndarray]
    reproduced: dict[str, np.ndarray]
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


def audit(
    probe: Probe,
    x: np.ndarray,
    y: np.ndarray,
    sources: dict[str, dict[str, Any]],
    *,
    forward: dict[str, Any] | None = None,
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
        directions: random sign vectors along which differences are taken.
        probe_size: every pixel's change in a difference, and the size of the noise; images may leave
            [0, 1] by as much.
        seed: of the directions and the noise.
    """
    rng = np.random.default_rng(seed)
    forward = forward or {}
    gradients = {name: probe.gradient(x, y, **settings)[1] for name, settings in sources.items()}
    shuffled = rng.permutation(len(x))
    again = {
        name: probe.gradient(x[shuffled], y[shuffled], **settings)[1][np.argsort(shuffled)]
        for name, settings in sources.items()
    }

    def loss(images: np.ndarray) -> np.ndarray:
        return exact_cross_entropy(probe.logits(images.astype(np.float32), **forward), y)

    def slope(direction: np.ndarray) -> np.ndarray:
        step = probe_size * direction
        return (loss(x + step) - loss(x - step)) / (2 * probe_size)

    random_signs = [rng.choice([-1.0, 1.0], size=x.shape) for _ in range(directions)]
    measured = np.stack([slope(direction) for direction in random_signs])
    reference = next(iter(sources))
    clean_loss, clean_steps = loss(x), probe.steps(x, **forward)[0]
    noisy = [(x + probe_size * direction).astype(np.float32) for direction in random_signs[:4]]
    noise_change = [np.abs(loss(image) - clean_loss) / np.maximum(clean_loss, 1e-12) for image in noisy]
    changed = [(probe.steps(image, **forward)[0] != clean_steps).any(axis=1) for image in noisy]
    return Audit(
        sources=list(sources),
        gradients=gradients,
        cosine={name: cosine(g, gradients[reference]) for name, g in gradients.items()},
        sign_agreement={name: _same_sign(g, gradients[reference]) for name, g in gradients.items()},
        relative_norm={name: _norm(g) / _norm(gradients[reference]) for name, g in gradients.items()},
        difference_cosine={name: cosine(_predict(g, random_signs).T, measured.T) for name, g in gradients.items()},
        uphill={name: slope(np.sign(np.nan_to_num(g))) > 0 for name, g in gradients.items()},
        reproduced={name: cosine(again[name], g, both_zero=1.0) for name, g in gradients.items()},
        noise_change=np.mean(noise_change, axis=0),
        step_changes=float(np.mean(changed)) if probe.blocks else None,
    )


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
    return float(np.median(values)) if np.size(values) else None


def _mean(values: np.ndarray) -> float | None:
    return float(np.mean(values)) if np.size(values) else None
