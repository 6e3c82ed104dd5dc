"""Indicators of a failing attack: small functions from measurements to a pass or a fail.

Sources: Athalye, Carlini, Wagner, "Obfuscated Gradients Give a False Sense of Security", ICML 2018,
section 3.1 (called *Athalye* below); Carlini et al., "On Evaluating Adversarial Robustness", 2019,
sections 4 and 5 (*Carlini*); Pintor et al., "Indicators of Attack Failure", NeurIPS 2022, section 3
(*Pintor*); Zimmermann et al., "Increasing Confidence in Adversarial Robustness Evaluations",
NeurIPS 2022 (*Zimmermann*).

Every value is a share or a distance of which less is better: an indicator passes where
`value <= threshold`. Arrays over images hold only images that were classified correctly. A share of few images
exceeds its threshold by chance, and of many indicators one does; so a failure tells only if the images counted are
more than chance makes, at a significance shared by all (Bonferroni).
"""

import dataclasses
import math

import numpy as np

GROUPS = {
    "masking": "the model hides its gradients from attacks that follow them",
    "evaluation": "the attacks tried are too weak to quote",
    "published": "the published attack does not do what it seems to do",
    "informing": "plain PGD, looked at step by step, is no example to follow; it decides nothing",
}
DECIDING = ("masking", "evaluation")


@dataclasses.dataclass(frozen=True)
class Indicator:
    """One sign of a failing attack.

    Attributes:
        name: what is looked at, in a few words.
        value: the measurement, less is better.
        threshold: the largest value that passes.
        passed: whether `value <= threshold`; a value that is not a number fails.
        explanation: one sentence: what the number is, and the paper it follows.
        group: a key of `GROUPS`: what a failure means.
        count, total: of how many images the value counts how many; None where it is no such share.
        chance: how often an image counts where nothing is wrong.
    """

    name: str
    value: float
    threshold: float
    passed: bool
    explanation: str
    group: str
    count: int | None = None
    total: int | None = None
    chance: float = 0.05

    def tells(self, significance: float) -> bool:
        """Whether it failed by more than chance: P(as many images or more), each by `chance`, is that small."""
        if self.passed or not self.total:
            return not self.passed
        return binomial_tail(self.count, self.total, self.chance) <= significance

    def to_json(self) -> dict:
        return dataclasses.asdict(self)


def binomial_tail(count: int, total: int, chance: float) -> float:
    """P(at least `count` of `total`), each with probability `chance`."""
    return sum(math.comb(total, k) * chance**k * (1 - chance) ** (total - k) for k in range(count, total + 1))


def _indicator(
    name: str,
    value: float,
    threshold: float,
    explanation: str,
    group: str,
    counted: np.ndarray | None = None,
    chance: float | None = None,
) -> Indicator:
    value = float(value)
    found = Indicator(name, value, threshold, bool(value <= threshold), explanation, group)
    if counted is None or not np.size(counted):
        return found
    count, total = int(np.sum(counted)), int(np.size(counted))
    return dataclasses.replace(found, count=count, total=total, chance=threshold if chance is None else chance)


def _share(mask: np.ndarray) -> float:
    return float(np.mean(mask)) if np.size(mask) else 0.0


def unavailable_gradients(gradients: np.ndarray, group: str = "masking", threshold: float = 0.05) -> Indicator:
    """Share of images whose gradient [N, ...] is zero everywhere or not finite (Pintor, I1)."""
    flat = np.reshape(gradients, (len(gradients), int(np.prod(np.shape(gradients)[1:]))))
    useless = ~np.isfinite(flat).all(axis=1) | (flat == 0).all(axis=1)
    text = "share of the margin's input gradients that are zero or not finite (Pintor 2022, I1)"
    return _indicator("unavailable gradients", _share(useless), threshold, text, group, useless)


def vanishing_gradients(blind: np.ndarray, group: str = "masking", threshold: float = 0.1) -> Indicator:
    """Share of images [N] that pixels without a derivative change, alone, by over half of what all do (Athalye).

    A saturated layer at the entrance does that: what lies a step away has no say in the gradient. Of a network that
    computes what it seems to, pixels without a derivative have no influence either.

    Args:
        blind: [N], `Audit.blind`.
    """
    text = (
        "share of points where pixels without a derivative change the loss half as much as all do (Athalye 2018, 3.1)"
    )
    hidden = np.asarray(blind) > 0.5
    return _indicator("unavailable: derivatives vanish", _share(hidden), threshold, text, group, hidden)


def saturated_loss(saturated: np.ndarray, group: str = "masking", threshold: float = 0.25) -> Indicator:
    """Share of images [N] whose cross-entropy has no gradient in float32, though the margin of their logits has one.

    Logits scaled up do this (Carlini and Wagner 2017, section IV, on defensive distillation); a few images of any
    confident model may. Our attacks see past it; those that follow the cross-entropy as it stands do not.
    """
    text = "share of points where the cross-entropy alone has no gradient in float32 (Carlini and Wagner 2017, IV)"
    return _indicator("unavailable: loss saturated", _share(saturated), threshold, text, group, saturated)


def irreproducible_gradients(cosines: np.ndarray, group: str = "masking", threshold: float = 1e-3) -> Indicator:
    """1 - mean cosine [N] between the same gradient taken twice, the batch shuffled in between (Athalye)."""
    text = "1 - mean cosine of the same gradient taken twice in different batches (Athalye 2018, 3.1)"
    value = 1 - np.mean(cosines) if np.size(cosines) else 0.0
    return _indicator("irreproducible gradients", value, threshold, text, group)


def misleading_gradients(cosines: np.ndarray, group: str = "masking", threshold: float = 0.5) -> Indicator:
    """1 - median cosine [N] of the gradient with finite differences, along the same directions (Carlini)."""
    text = "1 - median cosine between gradient and finite differences, at the scale that fits best (Carlini 2019, 4.11)"
    return _median_indicator("misleading gradients", cosines, threshold, text, group)


def shattered_gradients(cosines: np.ndarray, group: str = "masking", threshold: float = 0.3) -> Indicator:
    """The same with differences at the attack's scale: right at the image, of no use to an attack (Athalye)."""
    text = "1 - median cosine between gradient and finite differences at the attack's scale (Athalye 2018, 4)"
    return _median_indicator("shattered gradients", cosines, threshold, text, group)


def _median_indicator(name, cosines, threshold, text, group) -> Indicator:
    value = 1 - np.median(cosines) if np.size(cosines) else 0.0
    # That a median is beyond the threshold: more images are than half.
    return _indicator(name, value, threshold, text, group, 1 - np.asarray(cosines) > threshold, 0.5)


def unstable_loss(relative_changes: np.ndarray, group: str = "masking", threshold: float = 0.1) -> Indicator:
    """Mean relative change [N] of the loss under random noise of 1e-3 (Pintor, I2).

    A change that is not a number, where the noise made a solve fail, counts as 1.
    """
    text = "mean relative change of the loss under random noise of 1e-3, at most 1 (Pintor 2022, I2)"
    changes = np.where(np.isnan(relative_changes), 1.0, relative_changes)
    value = min(1.0, np.mean(changes)) if np.size(changes) else 0.0
    return _indicator("unstable loss", value, threshold, text, group)


def out_of_reach(
    steps: int, step_size: float, eps: float, group: str = "published", threshold: float = 0.0
) -> Indicator:
    """The part of the radius that an attack's steps leave, all in one direction: 1 - steps step_size / eps, if any.

    Such an attack never sees the edge of its ball, and is quoted for a radius it does not use (Carlini, 4.5: attacks
    are to converge).
    """
    left = max(0.0, 1 - steps * step_size / eps) if eps else 0.0
    # Written and read, ten steps of 0.1 are one of 1.
    value = 0.0 if left < 1e-6 else left
    text = "share of the radius beyond the reach of all steps together (Carlini 2019, 4.5)"
    return _indicator("steps end short of the radius", value, threshold, text, group)


def other_solver(left: np.ndarray, turned: np.ndarray, group: str = "published", threshold: float = 0.05) -> Indicator:
    """Share of images that an attack left where it was published, and turns on the solver that is deployed (Carlini).

    Such an attack was of another model: what it left is no robustness of this one (4.1: of the defence as it is used).

    Args:
        left: [N] bool, withstood the attack made and judged on the published solver; turned: [N] bool, by the same
            attack on the deployed one.
    """
    text = "share of images that fall on the deployed solver and were left on the attacked one (Carlini 2019, 4.1)"
    only = left & turned
    return _indicator("attacked solver is not the deployed one", _share(only), threshold, text, group, only)


def gradient_free_wins(
    gradient_free: np.ndarray,
    gradient_based: np.ndarray,
    group: str = "masking",
    threshold: float = 0.05,
    weight: float = 1.0,
) -> Indicator:
    """Share of images that a gradient-free attack turned and no gradient attack did.

    Args:
        gradient_free: [N] bool, turned by any gradient-free attack; gradient_based: [N] bool.
        weight: the share of all images that these stand for, in [0, 1].
        group: "masking" when `gradient_based` joins every gradient attack tried, "published" when it
            is the published attack alone.
    """
    compared = "the published attack" if group == "published" else "any attack along the model's gradients"
    text = f"share of images turned without a gradient and not by {compared} (Athalye 2018, 3.1; Carlini 2019, 4.8)"
    only = gradient_free & ~gradient_based
    value = weight * _share(only)
    # Of those looked at, which stand for a share of all: so many may be turned by chance.
    return _indicator(
        "gradient-free beats gradient",
        value,
        threshold,
        text,
        group,
        only,
        min(0.5, threshold / weight) if weight else None,
    )


def black_box_wins(
    transferred: np.ndarray, white_box: np.ndarray, group: str = "masking", threshold: float = 0.05
) -> Indicator:
    """Share of images turned by transferred examples [N] and by no white-box attack [N] (Athalye)."""
    text = "share of images turned by transferred examples only (Athalye 2018, 3.1; Carlini 2019, 4.7)"
    return _indicator(
        "black box beats white box", _share(transferred & ~white_box), threshold, text, group, transferred & ~white_box
    )


def more_steps_keep_helping(
    fewer: np.ndarray, more: np.ndarray, group: str = "evaluation", threshold: float = 0.05
) -> Indicator:
    """Share of images that only the longest run of the same attack turned: not converged (Carlini)."""
    text = "share of images that only the longest PGD turned: not converged (Carlini 2019, 5.2)"
    return _indicator("more steps keep helping", _share(more & ~fewer), threshold, text, group, more & ~fewer)


def more_steps_do_not_help(
    short: np.ndarray, longest: np.ndarray, group: str = "evaluation", threshold: float = 0.05
) -> Indicator:
    """Share of images that the short run of an attack turned [N] and its longest did not [N] (Carlini)."""
    text = "share of images that the short PGD turned and the longest did not (Carlini 2019, 5.2)"
    return _indicator("more steps do not help", _share(short & ~longest), threshold, text, group, short & ~longest)


def averaging_wins(
    averaged: np.ndarray, plain: np.ndarray, group: str = "masking", threshold: float = 0.05
) -> Indicator:
    """Share of images [N] turned along a gradient averaged over noise or steps, and not along it as it is (Athalye).

    Along a gradient that foretells the loss, momentum and noise find what plain steps from the image do, by one loss or
    another; one that turns within a step's length leads astray, and its mean does not. On honest networks less than one
    image in two hundred counts: none of 767 of the planted ones of `benchmarks/verdicts`.
    """
    text = (
        "share of images turned along a gradient averaged over noise or steps, not along it as it is (Athalye 2018, 4)"
    )
    only = averaged & ~plain
    return _indicator("shattered: averaging finds more", _share(only), threshold, text, group, only, 0.005)


def incomplete_optimisation(
    losses: np.ndarray, turned: np.ndarray, group: str = "evaluation", threshold: float = 0.05, last: int = 10
) -> Indicator:
    """How much the loss still rises in the last steps, for images the attack did not turn (Pintor, I4).

    Args:
        losses: [S + 1, N], the loss at every iterate, NaN where a solve failed.
        turned: [N] bool; an image already turned gains nothing by more steps, and counts as 0.
        last: the number of final steps looked at; capped to half of all, so that a short run does not
            count its own beginning.
    """
    text = "share of the loss's rise that falls into the last steps, mean of all images (Pintor 2022, I4)"
    best = np.fmax.accumulate(np.asarray(losses, np.float64), axis=0)
    last = max(1, min(last, (len(losses) - 1) // 2))
    rise, late = best[-1] - best[0], best[-1] - best[-1 - last]
    shares = np.divide(late, rise, out=np.zeros_like(rise), where=(rise > 0) & ~turned)
    value = shares.mean() if shares.size else 0.0
    return _indicator("incomplete optimisation", value, threshold, text, group)


def loss_not_raised(losses: np.ndarray, group: str = "evaluation", threshold: float = 0.05) -> Indicator:
    """Share of images whose loss the attack did not raise at all: `losses` [S + 1, N] (Carlini 5.3).

    A loss that is not a number, where a solve failed, is no rise.
    """
    losses = np.asarray(losses)
    stuck = ~(np.fmax.reduce(losses[1:]) > losses[0])
    text = "share of images whose loss the attack did not raise (Carlini 2019, 5.3)"
    return _indicator("loss not raised", _share(stuck), threshold, text, group, stuck)


def loss_falls_with_eps(losses: np.ndarray, group: str = "masking", threshold: float = 0.1) -> Indicator:
    """Share of the growths of eps at which an image's loss fell; `losses` [E, N], eps ascending (Carlini).

    A larger ball holds the smaller one: an attack that finds less in it goes where no gradient tells the way. Counted
    are the images whose loss fell at some growth.

    The losses are margins, positive where an image is misclassified. One that is misclassified in the larger ball too
    has not been lost: how far is the optimiser's business. A fall of under a hundredth of the image's range of losses
    is rounding, and does not count either.
    """
    losses = np.asarray(losses, np.float64)
    span = losses.max(axis=0) - losses.min(axis=0)
    falls = (np.diff(losses, axis=0) < -0.01 * span) & (losses[1:] <= 0)
    text = "share of the growths of eps at which the loss fell (Carlini 2019, 5.1)"
    return _indicator("loss falls as eps grows", _share(falls), threshold, text, group, falls.any(axis=0))


def unbounded_attack_fails(turned: np.ndarray, group: str = "evaluation", threshold: float = 0.02) -> Indicator:
    """Share of images [N] not turned though everything may change (Pintor, I6)."""
    text = "share of images not turned where every pixel may become any other (Athalye 2018, 3.1; Pintor 2022, I6)"
    value = 1 - _share(turned) if len(turned) else 0.0
    return _indicator("unbounded attack fails", value, threshold, text, group, ~np.asarray(turned, bool))


def silent_success(turned_by_step: np.ndarray, group: str = "evaluation", threshold: float = 0.05) -> Indicator:
    """Share of images turned at some iterate but not at the last; `turned_by_step` [S + 1, N] (I3)."""
    turned_by_step = np.asarray(turned_by_step, bool)
    lost = turned_by_step.any(axis=0) & ~turned_by_step[-1]
    text = "share of images turned on the way and lost at the end (Pintor 2022, I3)"
    return _indicator("silent success", _share(lost), threshold, text, group)


def planted_missed(found: np.ndarray, group: str = "evaluation", threshold: float = 0.05) -> Indicator:
    """Share of images whose planted example the attack missed; `found` [N] bool (Zimmermann)."""
    text = "share of planted adversarial examples that the attack missed (Zimmermann 2022)"
    return _indicator("planted example missed", 1 - _share(found) if len(found) else 0.0, threshold, text, group)
