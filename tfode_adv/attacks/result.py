"""What an attack found."""

import dataclasses

import numpy as np

from tfode_adv.models.answers import Answers


@dataclasses.dataclass(frozen=True, repr=False)
class AttackResult:
    """What an attack found, one entry a sample, in NumPy.

    x_adv [N, ...] float32 in [0, 1], and in the ball if there is one; success [N] bool, of a forward
    pass of its own on x_adv; distance [N] from the clean image in the attack's norm; queries [N]: how many
    times the attacked model was asked about the sample, the clean and the verifying passes included;
    gradients [N]: how many were taken, through whatever the attack's source runs for them. label [N] as given, the
    classes to reach if `targeted`; clean and answers: what the model answers for the clean image and for x_adv (see
    `tfode_adv.models.oracle.Answers`), which the other names tell one by one.

    An image that was wrong as it is counts in success, at distance 0; the rates tell it apart.

    Of a randomised model, success is of as many passes as `verification` says, at that moment: another may differ.
    """

    x_adv: np.ndarray
    success: np.ndarray
    distance: np.ndarray
    queries: np.ndarray
    gradients: np.ndarray
    label: np.ndarray
    clean: Answers
    answers: Answers
    targeted: bool

    @property
    def clean_prediction(self) -> np.ndarray:
        """[N]: the classes that the model answers for the clean images, -1 where it has no answer."""
        return self.clean.prediction

    @property
    def prediction(self) -> np.ndarray:
        """[N]: the classes that it answers for x_adv, -1 where it has no answer."""
        return self.answers.prediction

    @property
    def clean_logits(self) -> np.ndarray:
        """[N, K]: the logits for the clean images."""
        return self.clean.logits

    @property
    def logits(self) -> np.ndarray:
        """[N, K]: the logits for x_adv."""
        return self.answers.logits

    @property
    def clean_nfe(self) -> np.ndarray:
        """[N]: evaluations of the dynamics for the clean images."""
        return self.clean.nfe

    @property
    def nfe(self) -> np.ndarray:
        """[N]: evaluations of the dynamics for x_adv."""
        return self.answers.nfe

    @property
    def no_answer(self) -> np.ndarray:
        """[N] bool: for x_adv a solve failed or the logits are not finite, so it is neither turned nor right."""
        return self.answers.no_answer

    @property
    def clean_accuracy(self) -> float:
        """The share of all images that are right before the attack; NaN if targeted, where no label is known."""
        return _share(self.clean_prediction == self.label, not self.targeted)

    @property
    def attack_success_rate(self) -> float:
        """Of the images that were right (if targeted: not yet of the class to reach), the share that was turned."""
        return _share(self.success[(self.clean_prediction == self.label) != self.targeted])

    @property
    def robust_accuracy(self) -> float:
        """The share of all images that are right after the attack; NaN if targeted, where no label is known."""
        return _share((self.prediction == self.label) & ~self.success, not self.targeted)

    def __repr__(self) -> str:
        rates = {
            "clean accuracy": self.clean_accuracy,
            "attack success rate": self.attack_success_rate,
            "robust accuracy": self.robust_accuracy,
        }
        parts = [f"{name} {100 * rate:.1f} %" for name, rate in rates.items() if not np.isnan(rate)]
        if self.no_answer.any():
            parts.append(f"no answer for {self.no_answer.sum()}")
        return f"{type(self).__name__}({', '.join([f'{len(self.label)} images', *parts])})"


def _share(which: np.ndarray, known: bool = True) -> float:
    return float(np.mean(which)) if known and len(which) else float("nan")
