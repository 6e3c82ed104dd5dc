"""Gradients held against one another and against finite differences: the numbers of an audit."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Audit:
    """What was measured of the gradients of one model at one tolerance, of N images.

    Attributes:
        image: [N], the place of each among the images looked at.
        sources: names, the reference first.
        gradients: by source, [N, ...].
        cosine, sign_agreement, relative_norm: by source, [N], against the reference source; the first two NaN where
            that is zero.
        difference_cosine: by source, [N]: cosine of the changes that the gradient predicts along random directions
            with those measured, at the scale that agrees best; NaN for an image whose loss does not change.
        attack_cosine: by source, [N]: the same at the scales of an attack, an eighth and half of eps.
        uphill: by source, [N] bool: the measured loss rises along the gradient's sign.
        reproduced: by source, [N]: cosine of the same gradient taken twice, in shuffled batches, of a randomised model
            by one run each.
        varies: [N] bool: whether the loss changes anywhere that was looked at, beyond a randomised model's noise.
        blind: [N]: how much the loss changes at the attack's scale where only those pixels change whose derivative
            vanishes, of how much it does where all change.
        saturated: [N] bool: whether the cross-entropy's gradient, which attacks follow, is zero in float32 and the
            margin's is not.
        noise_change: [N]: mean |loss(x + noise) - loss(x)| for noise of `probe_size`, of the images' median |loss|.
        step_changes: share of (image, noise of `probe_size`) pairs in which the number of accepted
            steps changed; None without ODE blocks.
        at_rest: share of the images with a step whose error was exactly zero: the tolerance bounded neither the step
            there nor the gradient's error; None without ODE blocks.
    """

    image: np.ndarray
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
    blind: np.ndarray
    saturated: np.ndarray
    noise_change: np.ndarray
    step_changes: float | None
    at_rest: float | None = None

    def rows(self) -> list[list]:
        """One row a source: name and the measurements' medians or shares, as `COLUMNS` names them."""
        return [
            [
                name,
                _median(self.cosine[name]),
                _mean(_finite(self.sign_agreement[name])),
                _median(self.relative_norm[name]),
                _median(self.difference_cosine[name]),
                _mean(self.uphill[name]),
                _mean(~np.isfinite(flat(self.gradients[name])).all(axis=1)),
                _mean((flat(self.gradients[name]) == 0).all(axis=1)),
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


def margin(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The best rival's logit less the label's [N], in float64: above 0 where the image is misclassified."""
    logits = np.array(logits, np.float64)
    rows = np.arange(len(y))
    label = logits[rows, y]
    logits[rows, y] = -np.inf
    return logits.max(axis=1) - label


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
    a, b = flat(a).astype(np.float64), flat(b).astype(np.float64)
    usable = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    a, b = np.where(usable[:, None], a, 0), np.where(usable[:, None], b, 0)
    size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    result = np.divide((a * b).sum(axis=1), size, out=np.zeros(len(a)), where=size > 0)
    zero = usable & (a == 0).all(axis=1) & (b == 0).all(axis=1)
    return np.where(zero, both_zero, result)


def same_sign(gradient: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Share of the elements [N] with the reference's sign, where the reference has one; NaN where it has none."""
    signed = flat(reference) != 0
    agree = (np.sign(flat(gradient)) == np.sign(flat(reference))) & signed
    return np.divide(agree.sum(axis=1), signed.sum(axis=1), out=np.full(len(agree), np.nan), where=signed.any(axis=1))


def length(gradient: np.ndarray) -> np.ndarray:
    """Euclidean length [N] of arrays [N, ...], above zero."""
    # The smallest normal number, so that a zero reference gives a finite ratio.
    return np.maximum(np.linalg.norm(flat(gradient).astype(np.float64), axis=1), np.finfo(np.float32).tiny)


def flat(array: np.ndarray) -> np.ndarray:
    """`array` [N, ...] as [N, M]."""
    return np.reshape(array, (len(array), int(np.prod(np.shape(array)[1:]))))


def _median(values: np.ndarray) -> float | None:
    known = _finite(values)
    return float(np.median(known)) if known.size else None


def _finite(values: np.ndarray) -> np.ndarray:
    return np.asarray(values)[np.isfinite(values)]


def _mean(values: np.ndarray) -> float | None:
    return float(np.mean(values)) if np.size(values) else None
