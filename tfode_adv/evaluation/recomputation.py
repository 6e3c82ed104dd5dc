"""What an evidence pack says, computed again: without an attack, and without the data set."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from tfode_adv import keras_internals
from tfode_adv.errors import RunError, UsageError
from tfode_adv.evaluation.configuration import Configuration
from tfode_adv.evaluation.evidence import IMAGES, Pack, weights_sha256
from tfode_adv.models.answers import NO_ANSWER, Answers

# Shares of an image's largest logit. Processors, and batches of other sizes, add in another order; an adaptive solver
# makes more of it. Layers in a half precision keep 8 to 11 bits.
_ROUNDING, _HALF_ROUNDING = 2.0**-10, 2.0**-5
_ASKED_TWICE = 8


class Subject(Protocol):
    """A model that knows how to put itself under a configuration, as `subject.KerasSubject`."""

    model: Any

    def predict(self, configuration: Configuration, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits [N, classes], NaN where a solve failed, and evaluations of the dynamics [N]."""


@dataclasses.dataclass(frozen=True)
class Findings:
    """What of a pack does not hold.

    Attributes:
        changed: the pack was changed after it was made, in anything but the images' pixels.
        rows: by an image's index, what of it does not hold, in sentences.
        undecided: the same of predictions that rounding alone can turn: the two classes' logits are closer than one
            processor can be told from another.
    """

    changed: bool
    rows: Mapping[int, list[str]]
    undecided: Mapping[int, list[str]]

    @property
    def holds(self) -> bool:
        """Whether nothing was found; what is undecided is no finding."""
        return not self.changed and not self.rows

    def lines(self) -> list[str]:
        """All findings, one a line."""
        found = ["what was recorded was changed since: the pack's seal is broken"] if self.changed else []
        found += [f"image {index}: {'; '.join(reasons)}" for index, reasons in self.rows.items()]
        return found + [f"image {index} is undecided: {'; '.join(why)}" for index, why in self.undecided.items()]


# What is not finite is found, and needs no warning.
@np.errstate(invalid="ignore", over="ignore")
def check(pack: Pack, subject: Subject) -> Findings:
    """Computes a pack's digests, predictions, distances and successes again, and compares.

    The images are asked under the pack's configuration, as the attack's own verification asks them. Digests are
    compared exactly, distances within what the attacks allow for rounding (a part in 1e5, and 1e-6).

    Args:
        pack: as it was read.
        subject: the model that was attacked.

    Raises:
        RunError: if the model has other weights than the one that was attacked, if it answers the same images
            differently, by chance, or if it cannot be put under the configuration.
    """
    if pack.configuration.random_tol is not None:
        raise RunError("the tolerance is drawn anew at each call: what was predicted cannot be computed again")
    weights = weights_sha256(subject.model.get_weights())
    if weights != pack.weights:
        raise RunError(f"the model's weights have SHA-256 {weights}, but those attacked had {pack.weights}")
    try:
        logits = {name: subject.predict(pack.configuration, pack[name])[0] for name in IMAGES}
        again = subject.predict(pack.configuration, pack["clean"][:_ASKED_TWICE])[0]
    except UsageError as error:
        raise RunError(f"the model cannot be asked as it was attacked: {error}") from error
    rounding = _rounding(subject.model)
    first = logits["clean"][:_ASKED_TWICE]
    if (np.abs(again - first).max(-1) > rounding * np.abs(first).max(-1)).any():
        raise RunError("the model answers the same images differently: what was predicted cannot be computed again")
    rows: dict[int, list[str]] = {}
    undecided: dict[int, list[str]] = {}
    for wrong, said in _compared(pack):
        _note(rows, pack, wrong, said)
    for name in IMAGES:
        differs, close = _predictions(logits[name], pack[f"{name}_prediction"], rounding)
        found = Answers.told(logits[name]).prediction

        def said(row: int, name: str = name, found: np.ndarray = found) -> str:
            return f"{name} prediction {_class(found[row])}, recorded {_class(pack[f'{name}_prediction'][row])}"

        _note(rows, pack, differs & ~close, said)
        _note(undecided, pack, differs & close, said)
    return Findings(not pack.intact, dict(sorted(rows.items())), dict(sorted(undecided.items())))


def _note(found: dict[int, list[str]], pack: Pack, rows: np.ndarray, said: Callable[[int], str]) -> None:
    for row in np.flatnonzero(rows):
        found.setdefault(int(pack["index"][row]), []).append(said(int(row)))


def _compared(pack: Pack) -> Iterator[tuple[np.ndarray, Callable[[int], str]]]:
    """What needs no model: the rows [N] that do not hold, and what is said of one."""
    for name in IMAGES:
        flat = pack[name].reshape(len(pack), -1)
        yield pack.changed(name), lambda row, name=name: f"its {name} image was changed: another SHA-256"
        inside = ((flat >= 0) & (flat <= 1)).all(-1)
        yield ~inside, lambda row, name=name: f"its {name} image is not in [0, 1]"
    measured, recorded = _distance(pack), pack["distance"].astype(np.float64)
    yield (
        ~(np.abs(measured - recorded) <= _allowed(measured)),
        lambda row: f"distance {measured[row]:.6g}, recorded {recorded[row]:.6g}",
    )
    eps = pack.configuration.eps
    if eps is not None:
        yield ~(measured - eps <= _allowed(eps)), lambda row: f"distance {measured[row]:.6g}, beyond eps {eps:.6g}"
    label, clean, adversarial = (pack[name] for name in ("label", "clean_prediction", "adversarial_prediction"))
    yield (
        pack["success"] != ((clean == label) & (adversarial != label)),
        lambda row: (
            f"success {bool(pack['success'][row])} recorded of label {label[row]}, predictions {clean[row]} and "
            f"{adversarial[row]}"
        ),
    )


def _distance(pack: Pack) -> np.ndarray:
    """How far apart the images are, [N], in the configuration's norm: in float64, by none of the attacks' code."""
    change = (pack["adversarial"].astype(np.float64) - pack["clean"]).reshape(len(pack), -1)
    if pack.configuration.norm == "linf":
        return np.abs(change).max(-1)
    total = np.square(change).sum(-1)
    return np.sqrt(total / change.shape[-1] if pack.configuration.norm == "l2rms" else total)


def _allowed(length: Any) -> Any:
    """What `Attack._settle` allows a length for rounding."""
    return 1e-5 * length + 1e-6


def _predictions(logits: np.ndarray, recorded: np.ndarray, rounding: float) -> tuple[np.ndarray, np.ndarray]:
    """Where the class predicted is another than recorded, and where both classes' logits are as good as equal, [N]."""
    found = Answers.told(logits).prediction
    answered = (found != NO_ANSWER) & (recorded >= 0) & (recorded < logits.shape[-1])
    rows = np.arange(len(logits))
    gap = np.abs(logits[rows, found] - logits[rows, np.where(answered, recorded, 0)])
    return found != recorded, answered & (gap <= rounding * np.abs(logits).max(-1))


def _rounding(model: Any) -> float:
    """The share of the largest logit that two processors may disagree by."""
    layers = keras_internals.sublayers(model, include_self=True)
    half = any("16" in str(getattr(layer, "compute_dtype", "")) for layer in layers)
    return _HALF_ROUNDING if half else _ROUNDING


def _class(prediction: int) -> str:
    return "no answer" if prediction == NO_ANSWER else str(prediction)
