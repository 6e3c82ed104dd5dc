"""From attacks and indicators to one sentence: is this robustness real?

An *outcome* says which images one attack turned, and in what the attack differs from the published
one. An image that the published attack left and another turned is credited to the smallest change that
turns it: the attacks with the fewest differences share it equally. So an image that falls to ten steps
with the true gradient is never credited to "more steps", and one that falls to either of two single
changes counts half for each. A change that finds what the published gradient hides is greater than any of those
that try harder along it: an image that another loss turns with more steps needs no attack without gradients.

Two questions are answered apart. *Are the gradients hidden?* is asked of the model's own gradient. *How much
robustness is left?* is the worst case over all attacks: at most so much, whatever the gradients are. The label says
what follows for who would quote the published attack.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from tfode_adv.analysis.indicators import DECIDING, Indicator
from tfode_adv.rendering.rates import wilson

CHANGES = {
    "gradient": "another source of the gradient",
    "steps": "more steps, restarts, momentum or adaptive steps",
    "loss": "another loss",
    "transfer": "examples transferred from other tolerances",
    "gradient-free": "no gradient at all",
}

# An attack that differs in one of these finds what the published gradient hides; the others only try harder.
HIDING = frozenset({"gradient", "transfer", "gradient-free"})

LABELS = {
    "masked": "the gradients are masked: do not quote the published attack",
    "inconclusive": "the attacks tried are too weak to say",
    "credible": "no sign of masking was found",
    "not robust": "there is no robustness to explain",
}
GRADIENTS = {
    "honest": "nothing measured speaks against the model's own gradients",
    "absent": "the model's own gradients are zero, vanish or are not finite where its loss changes",
    "misleading": "the model's own gradients do not foretell how its loss changes",
    "shattered": "the model's own gradients are of no use at the attack's scale",
    "random": "the model's own gradients differ from call to call",
}
# What "inconclusive" means where the published attack is what was too weak.
TOO_WEAK = (
    "the published attack is too weak to quote: more steps, restarts or another loss turn many of the images it left, "
    "and those that took another gradient, transfer or no gradient to turn are too few to call it masked"
)

# What "inconclusive" means where much seems to be lost, of too few images to tell it from chance.
TOO_FEW = (
    "of the images that withstood the published attack others turned so large a part that it would count, but too few "
    "to tell from chance: look at more images"
)

# What "masked" means where the gradients of the published attack hide, and not the model's own.
ELSEWHERE = (
    "the gradients of what the model computes are not, but those of the published attack miss what another gradient, "
    "transfer or none finds: do not quote the published attack"
)

# Less than this share of the apparent robustness left is masking, or a published attack too weak: our choice.
LEAST_LEFT = 0.8
# Below this share of the correctly classified images left, the model is not robust.
LEAST_ROBUST = 0.1
SIGNIFICANCE = 0.05


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one attack did.

    Attributes:
        name: the row's name.
        changes: keys of `CHANGES`: in what the attack differs from the published one; empty for itself.
        tried: [N] bool, the images it was run on, correctly classified ones only.
        turned: [N] bool, those it turned.
    """

    name: str
    changes: frozenset[str]
    tried: np.ndarray
    turned: np.ndarray


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What is left of the apparent robustness, and why.

    Attributes:
        label: a key of `LABELS`; meaning: what it says of the model; sentence: all of it in words.
        images: how many were looked at; clean, published, worst_case: how many of them are classified
            correctly without an attack, under the published one, under all together.
        left: worst_case / published, in [0, 1]; None where the published attack leaves none.
        gradients: a key of `GRADIENTS`: whether the model's own gradients are hidden, and how.
        interval: of the images left in the worst case, the 95 % interval of their share, in [0, 1].
        set_by: the attack that turns most of the images by itself; None where none turns any.
        hidden: images lost beyond the published attack that no attack of as small a change turned by trying
            harder: another gradient, transfer or no gradient was needed.
        attribution: images lost beyond the published attack, by what took them; see `attribute`.
        failed: names of the indicators that failed.
        deciding: of those, the ones that the label rests on: of a group that decides, and beyond chance.
    """

    label: str
    meaning: str
    sentence: str
    images: int
    clean: int
    published: int
    worst_case: int
    left: float | None
    gradients: str
    interval: tuple[float, float]
    set_by: str | None
    hidden: int
    attribution: dict[str, float]
    failed: list[str]
    deciding: list[str]

    def to_json(self) -> dict:
        return dataclasses.asdict(self)


def sign_test(only_first: int, only_second: int) -> float:
    """One-sided exact sign test: is `only_first` larger than chance would make it?

    Args:
        only_first: images on which only the first of two paired attacks succeeded.
        only_second: images on which only the second did.

    Returns:
        P(at least `only_first` of `only_first + only_second` fair coins fall heads), in (0, 1].
    """
    coins = only_first + only_second
    return sum(math.comb(coins, heads) for heads in range(only_first, coins + 1)) / 2**coins


def worst_case(outcomes: Iterable[Outcome]) -> np.ndarray:
    """[N] bool: the images that at least one attack turned."""
    return np.any([outcome.turned for outcome in outcomes], axis=0)


def attribute(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Images lost beyond the published attack, credited to the smallest change that turns each.

    Returns:
        {"gradient": images, "gradient + steps": images, ...}, largest first; the sum is the number of
        images that some attack turned and the published one did not.
    """
    return _credit(_smallest_changes(outcomes))


def _credit(lost: list[list[frozenset[str]]]) -> dict[str, float]:
    credit: dict[str, float] = collections.defaultdict(float)
    for smallest in lost:
        for changes in smallest:
            credit[_join(changes)] += 1 / len(smallest)
    return dict(sorted(credit.items(), key=lambda item: (-item[1], item[0])))


def _smallest_changes(outcomes: Sequence[Outcome]) -> list[list[frozenset[str]]]:
    """For each image lost beyond the published attack, the smallest changes that turn it: several of one size."""
    published = worst_case(outcome for outcome in outcomes if not outcome.changes)
    others = [outcome for outcome in outcomes if outcome.changes]
    found = []
    for image in np.flatnonzero(worst_case(outcomes) & ~published):
        turning = {outcome.changes for outcome in others if outcome.turned[image]}
        smallest = min(map(_size, turning))
        found.append([changes for changes in turning if _size(changes) == smallest])
    return found


def _size(changes: frozenset[str]) -> tuple[bool, int]:
    return bool(changes & HIDING), len(changes)


def judge(
    correct: np.ndarray,
    outcomes: Sequence[Outcome],
    indicators: Sequence[Indicator],
    setting: str = "",
    saturated: np.ndarray | None = None,
    behind: str = "shattered",
) -> Verdict:
    """The verdict on one model at one tolerance.

    Args:
        correct: [N] bool, images classified correctly without an attack.
        outcomes: every attack's, the published one's among them (its `changes` are empty).
        indicators: all that were measured.
        setting: words for the sentence's beginning, such as "At tau = 1".
        saturated: [N] bool, images at which the gradient of the published loss is zero though the model's is not: the
            published attack stays there, and whatever turns such an image finds what that loss hides.
        behind: a key of `GRADIENTS`: what the model's own gradients are where much is hidden, most of it not by a
            saturated loss, and no indicator tells.

    Returns:
        "not robust" where the published attack turns nine images in ten, or where all together do and the gradients
        are honest; "masked" where the images that take one of `HIDING` to turn leave less than `LEAST_LEFT` of the
        apparent robustness, beyond chance, or where an indicator of masking tells; "inconclusive" where trying harder
        leaves less, or an indicator of a weak evaluation tells, or where less is left of so few images that chance
        may have done it; else "credible".
    """
    total = len(correct)
    published = correct & ~worst_case(outcome for outcome in outcomes if not outcome.changes)
    remaining = correct & ~worst_case(outcomes)
    lost = int(published.sum() - remaining.sum())
    turning = _smallest_changes(outcomes)
    flat = np.zeros(total, bool) if saturated is None else saturated
    images = np.flatnonzero(worst_case(outcomes) & ~worst_case(one for one in outcomes if not one.changes))
    hidden = sum(
        bool(flat[image]) or all(changes & HIDING for changes in smallest)
        for image, smallest in zip(images, turning, strict=True)
    )
    telling = told(indicators)
    groups = {indicator.group for indicator in telling}
    too_weak = _is_much(lost, int(published.sum()))
    too_few = not too_weak and _leaves_little(lost, int(published.sum()))
    much_hidden = _is_much(hidden, int(published.sum()))
    mostly_flat = int(flat[images].sum()) > hidden / 2
    gradients = _gradients(telling, ("absent" if mostly_flat else behind) if much_hidden else "honest")
    least = LEAST_ROBUST * max(1, correct.sum())

    if published.sum() < least:
        label = "not robust"
    elif much_hidden or "masking" in groups:
        label = "masked"
    elif remaining.sum() < least:
        label = "not robust"
    elif too_weak or too_few or "evaluation" in groups:
        label = "inconclusive"
    else:
        label = "credible"
    meaning = LABELS[label]
    if label == "inconclusive" and too_weak:
        meaning = TOO_WEAK
    elif label == "inconclusive" and "evaluation" not in groups:
        meaning = TOO_FEW
    elif label == "masked" and gradients == "honest":
        meaning = ELSEWHERE

    attribution = _credit(turning)
    counts = {"clean": correct.sum(), "published": published.sum(), "worst_case": remaining.sum()}
    interval = wilson(int(remaining.sum()), total)
    set_by = _strongest(outcomes)
    conclusion = f"{label} ({meaning})"
    left = _left(int(remaining.sum()), total, interval, set_by)
    return Verdict(
        label=label,
        meaning=meaning,
        sentence=_sentence(setting, f"{left}. Gradients: {gradients}", conclusion, counts, total, attribution, telling),
        images=total,
        **{name: int(count) for name, count in counts.items()},
        left=float(remaining.sum() / published.sum()) if published.any() else None,
        gradients=gradients,
        interval=interval,
        set_by=set_by,
        hidden=hidden,
        attribution=attribution,
        failed=[indicator.name for indicator in indicators if not indicator.passed],
        deciding=[indicator.name for indicator in telling],
    )


def told(indicators: Sequence[Indicator]) -> list[Indicator]:
    """The failed indicators that decide: of those groups that do, beyond chance, at a significance they share."""
    deciding = [indicator for indicator in indicators if indicator.group in DECIDING]
    return [indicator for indicator in deciding if indicator.tells(SIGNIFICANCE / len(deciding))]


def _gradients(telling: Sequence[Indicator], otherwise: str) -> str:
    """How the model's own gradients are hidden, a key of `GRADIENTS`; the graver sign first."""
    failed = " ".join(indicator.name for indicator in telling if indicator.group == "masking")
    for word, answer in (("unavailable", "absent"), ("irreproducible", "random"), ("misleading", "misleading")):
        if word in failed:
            return answer
    # A loss that falls in a larger ball was led astray beyond the image.
    return "shattered" if "shattered" in failed or "loss falls" in failed else otherwise


def _strongest(outcomes: Sequence[Outcome]) -> str | None:
    best = max(outcomes, key=lambda outcome: int(outcome.turned.sum()), default=None)
    return best.name if best is not None and best.turned.any() else None


def _left(count: int, total: int, interval: tuple[float, float], set_by: str | None) -> str:
    low, high = (100 * end for end in interval)
    text = f"Robustness left: at most {100 * _divide(count, total):.1f} % ({low:.1f} to {high:.1f} %, {total} images)"
    return text + (f"; of all attacks, {set_by} turned most" if set_by else "; no attack turned an image")


def _is_much(lost: int, published: int) -> bool:
    """Whether losing so many of the images that withstood the published attack says something, beyond chance."""
    return _leaves_little(lost, published) and sign_test(lost, 0) <= SIGNIFICANCE


def _leaves_little(lost: int, published: int) -> bool:
    return published > 0 and 1 - lost / published < LEAST_LEFT


def _sentence(setting, answers, conclusion, counts, total, attribution, telling) -> str:
    def percent(count: float) -> str:
        return f"{100 * _divide(count, total):.1f} %"

    start = f"{setting}, " if setting else ""
    text = (
        f"{start}{percent(counts['published'])} of the images withstand the published attack "
        f"and {percent(counts['worst_case'])} the worst case"
    )
    text = text[0].upper() + text[1:]
    lost = counts["published"] - counts["worst_case"]
    if lost > 0:
        kept = 100 * counts["worst_case"] / counts["published"]
        credited = list(attribution.items())[:3]
        causes = [f"{percent(images)} fell to {_describe(name)}" for name, images in credited]
        rest = lost - sum(images for _, images in credited)
        if rest > 1e-9:
            causes.append(f"{percent(rest)} fell to what differs in other ways")
        text += f": {kept:.0f} % of the apparent robustness is left; of all images, {_enumerate(causes)}"
    text += f". {answers}. Verdict: {conclusion}"
    if telling:
        text += f"; failed: {', '.join(indicator.name for indicator in telling)}"
    return text + "."


def _join(changes: frozenset[str]) -> str:
    return " + ".join(name for name in CHANGES if name in changes)


def _describe(joined: str) -> str:
    first, *others = (CHANGES[name] for name in joined.split(" + "))
    return f"{first} with {' and '.join(others)}" if others else first


def _enumerate(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _divide(count: float, total: int) -> float:
    return float(count) / total if total else 0.0
