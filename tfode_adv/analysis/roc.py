"""Receiver operating characteristic of a score that is larger for adversarial images."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Roc:
    """A curve from (0, 0) to (1, 1): one point a distinct score, ties moved over together."""

    false_positive_rate: np.ndarray
    true_positive_rate: np.ndarray
    auc: float


def roc(clean: np.ndarray, adversarial: np.ndarray) -> Roc:
    """The curve and the area under it.

    Args:
        clean: [N] scores of clean images; adversarial: [M] scores of adversarial ones, both finite.

    Returns:
        The area equals the probability that an adversarial score exceeds a clean one, ties counting
        half (Mann and Whitney 1947); NaN where either side is empty.
    """
    scores = np.concatenate([clean, adversarial])
    labels = np.concatenate([np.zeros(len(clean)), np.ones(len(adversarial))])
    order = np.argsort(-scores, kind="stable")
    scores, labels = scores[order], labels[order]
    last_of_ties = np.append(np.diff(scores) != 0, True) if len(scores) else np.zeros(0, bool)
    with np.errstate(invalid="ignore", divide="ignore"):
        tpr = np.concatenate([[0.0], np.cumsum(labels)[last_of_ties] / len(adversarial)])
        fpr = np.concatenate([[0.0], np.cumsum(1 - labels)[last_of_ties] / len(clean)])
    if not len(clean) or not len(adversarial):
        return Roc(fpr, tpr, float("nan"))
    return Roc(fpr, tpr, float(np.trapezoid(tpr, fpr)))


def operating_point(validation_clean: np.ndarray, false_positive_rate: float = 0.05) -> float:
    """The smallest threshold that flags at most the given share of clean validation images.

    An image is flagged where its score is **above** the threshold. Chosen on validation images only, so
    that the rates on test images are honest.
    """
    ordered = np.sort(np.asarray(validation_clean, np.float64))
    if not len(ordered):
        return float("inf")
    allowed = int(np.floor(false_positive_rate * len(ordered)))
    return float(ordered[len(ordered) - 1 - allowed])
