"""Detecting adversarial images by their disagreement between tolerances.

WIFS 2019, section VI, names it as future work: a clean image's prediction hardly depends on the
solver's tolerance, an adversarial one's may. Two scores: how far the outputs, and how far the states at
the blocks' ends, differ between the tested tolerance and others. And, since a detector is a defence
like any other, the attack that knows it: raise the loss and keep the score down (Carlini and Wagner,
"Adversarial Examples Are Not Easily Detected", 2017).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfode_adv import layers
from tfode_adv.analysis.roc import Roc, operating_point, roc
from tfode_adv.attacks import losses
from tfode_adv.diagnosis import recorded_ascent
from tfode_adv.diagnosis.probe import Probe, calls_of
from tfode_adv.errors import UsageError, check_choice

SCORES = {
    "outputs": "total variation distance of the class probabilities, mean over the other tolerances",
    "states": "relative L2 distance of the states at the blocks' ends, mean over blocks and tolerances",
}


@dataclasses.dataclass(frozen=True)
class Detector:
    """A score and a threshold; an image is flagged where its score is above.

    Attributes:
        score: a key of `SCORES`.
        tol: the tolerance of the classifier; references: the tolerances compared with.
        threshold: chosen on validation images.
    """

    score: str
    tol: float
    references: tuple[float, ...]
    threshold: float = float("inf")

    def __post_init__(self):
        check_choice("score", self.score, SCORES)
        if not self.references:
            raise UsageError("a detector needs at least one tolerance to compare with, but got none")

    def scores(self, probe: Probe, x: np.ndarray) -> np.ndarray:
        """Scores [N] of images [N, ...]; larger is more suspicious."""

        def ask(images, references):
            _, score = _score(probe, self.score, images, references)
            return (score,)

        key = ("score", self.score, len(self.references))
        return probe.ask(key, ask, {"tol": self.tol}, x, self._references(len(x)))[0]

    def calibrated(self, probe: Probe, validation: np.ndarray, false_positive_rate: float = 0.05) -> "Detector":
        """The detector that flags at most this share of clean validation images [N, ...]."""
        threshold = operating_point(self.scores(probe, validation), false_positive_rate)
        return dataclasses.replace(self, threshold=threshold)

    def _references(self, count: int) -> np.ndarray:
        return np.tile(np.float32(self.references), (count, 1))


@dataclasses.dataclass(frozen=True)
class Detection:
    """How a detector fares against one attack that does not know it.

    Attributes:
        score: a key of `SCORES`; attack: its name; images: how many adversarial ones.
        auc: area under the curve, clean against adversarial images; None without adversarial ones.
        false_positive_rate: share of clean test images flagged at the operating point.
        true_positive_rate: share of adversarial images flagged there; None without any.
        curve: the rates at all thresholds.
    """

    score: str
    attack: str
    images: int
    auc: float | None
    false_positive_rate: float
    true_positive_rate: float | None
    curve: Roc


@dataclasses.dataclass(frozen=True)
class Evasion:
    """How the attack that knows a detector fares: the images tried, and those misclassified and not flagged.

    Attributes:
        score: a key of `SCORES`.
        escaped: how many of the images, at any weight of the score.
        escaped_unaware: how many where the attack disregards the score.
    """

    score: str
    images: int
    escaped: int
    escaped_unaware: int
    attack: str = "knows the detector"


def detect(detector: Detector, probe: Probe, clean: np.ndarray, adversarial: np.ndarray, attack: str = "") -> Detection:
    """The rates of a calibrated detector on clean test images and on an attack's successful adversarial ones."""
    clean_scores = detector.scores(probe, clean)
    scores = detector.scores(probe, adversarial) if len(adversarial) else np.zeros(0)
    curve = roc(clean_scores, scores)
    return Detection(
        score=detector.score,
        attack=attack,
        images=len(adversarial),
        auc=curve.auc if len(scores) else None,
        false_positive_rate=float((clean_scores > detector.threshold).mean()),
        true_positive_rate=float((scores > detector.threshold).mean()) if len(scores) else None,
        curve=curve,
    )


def evade(
    detector: Detector,
    probe: Probe,
    x: np.ndarray,
    y: np.ndarray,
    *,
    norm: str,
    eps: float,
    step_size: float,
    steps: int,
    weights: Sequence[float] = (0.0, 3.0),
    gradient: str = "backprop",
) -> dict[float, recorded_ascent.Trace]:
    """The attack that knows the detector, once for each weight of the score.

    Maximises min(margin, 1) - weight x score / threshold; the margin is capped so that a wrong
    prediction, once had, leaves the rest of the effort to hiding. A success is an image that is
    misclassified **and** not flagged.

    Returns:
        {weight: Trace}; `trace.found` says which images escape. Weight 0 does not know the detector.
    """

    def objective(images, labels, references, threshold, weight):
        logits, score = _score(probe, detector.score, images, references)
        above = losses.margin(logits, labels)
        loss = tf.minimum(above, 1.0) - weight * score / tf.maximum(threshold, 1e-6)
        return loss, (above > 0) & (score <= threshold)

    return {
        weight: recorded_ascent.ascend_on(
            probe,
            ("evade", detector.score, len(detector.references)),
            objective,
            x,
            y,
            detector._references(len(x)),
            np.full(len(x), detector.threshold, np.float32),
            np.full(len(x), weight, np.float32),
            norm=norm,
            eps=eps,
            step_size=step_size,
            steps=steps,
            settings={"tol": detector.tol, "gradient": gradient},
        )
        for weight in weights
    }


def _score(probe: Probe, score: str, images: tf.Tensor, references: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Logits [B, K] under the settings in force, and the score [B] against references [B, R]."""
    logits, states = _look(probe, images)
    distances = []
    for index in range(references.shape[1]):
        with layers.solver_settings(tol=references[:, index]):
            other_logits, other_states = _look(probe, images)
        if score == "outputs":
            change = tf.reduce_sum(tf.abs(tf.nn.softmax(logits) - tf.nn.softmax(other_logits)), axis=-1) / 2
            # A failed solve agrees with nothing.
            distances.append(tf.where(tf.math.is_nan(change), tf.ones_like(change), change))
        else:
            distances += [_relative(a, b) for a, b in zip(states, other_states, strict=True)]
    return logits, tf.add_n(distances) / len(distances)


def _look(probe: Probe, images: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
    with calls_of(probe.blocks) as calls:
        logits = probe.model(images)
    return logits, [tf.cast(state, tf.float32) for _, result in calls for state in tf.nest.flatten(result)]


def _relative(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    axes = list(range(1, len(a.shape)))
    # The root's derivative at 0 is infinite; a speck keeps identical states' gradients finite.
    return tf.sqrt((tf.reduce_sum((a - b) ** 2, axes) + 1e-12) / (tf.reduce_sum(a**2, axes) + 1e-6))
