"""Clean and adversarial images side by side, with what the model took them for."""

import dataclasses
from collections.abc import Iterable, Sequence

from tfode_adv.reports.plotting import data_uri, magnified, png
from tfode_adv.reports.results import Result
from tfode_adv.reports.tables import number

MOST = 12


@dataclasses.dataclass(frozen=True)
class Card:
    """One image under one attack; pictures as `data:` addresses.

    Attributes:
        index: the image's place in its split.
        clean, adversarial, perturbation: the pictures.
        factor: what the perturbation was magnified by.
        turned: whether the attack succeeded.
        text: label, predictions and distance.
    """

    index: int
    clean: str
    adversarial: str
    perturbation: str
    factor: str
    turned: bool
    text: str


@dataclasses.dataclass(frozen=True)
class Gallery:
    """The cards of one configuration."""

    title: str
    cards: Sequence[Card]


def galleries(results: Iterable[Result], most: int = MOST) -> list[Gallery]:
    """A few galleries: for each model, attack and norm the smallest eps that turns half of the images
    somewhere (else the largest), at every tolerance and gradient; at most `most` in all, spread evenly."""
    attacked = [result for result in results if result.images and result.configuration.attack != "none"]
    groups: dict[tuple, list[Result]] = {}
    for result in attacked:
        key = (result.model, result.attack, result.configuration.norm)
        groups.setdefault(key, []).append(result)
    chosen = [result for group in groups.values() for result in _telling(group)]
    step = max(1, -(-len(chosen) // most))
    return [_gallery(result) for result in chosen[::step]]


def _telling(group: Sequence[Result]) -> list[Result]:
    halved = [result.configuration.eps or 0.0 for result in group if (result.summary.success.value or 0.0) >= 0.5]
    eps = min(halved, default=max(result.configuration.eps or 0.0 for result in group))
    return [result for result in group if (result.configuration.eps or 0.0) == eps]


def _gallery(result: Result) -> Gallery:
    cell = result.configuration
    parts = [
        result.model,
        result.attack,
        f"{cell.norm} ε = {number(cell.eps)}" if cell.eps is not None else cell.norm,
        result.gradient,
        f"τ = {number(cell.tol)}" if cell.tol is not None else None,
    ]
    cards = [_card(result, index) for index in result.images if index in result.records]
    return Gallery(", ".join(part for part in parts if part), cards)


def _card(result: Result, index: int) -> Card:
    record = result.records[index]
    clean, adversarial = result.images[index]
    difference, factor = magnified(clean, adversarial)
    if not record.correct:
        text = f"label {record.label}, predicted {record.clean} without an attack"
    else:
        distance = "" if record.distance is None else f", distance {record.distance:.3g}"
        text = f"label {record.label}, predicted {record.clean} → {record.adversarial}{distance}"
    return Card(
        index=index,
        clean=data_uri(png(clean), "png"),
        adversarial=data_uri(png(adversarial), "png"),
        perturbation=data_uri(png(difference), "png"),
        factor=f"{factor:.3g}",
        turned=record.success,
        text=text,
    )
