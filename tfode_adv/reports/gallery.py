"""Clean and adversarial images side by side, with what the model took them for."""

from collections.abc import Iterable, Sequence

import numpy as np

from tfode_adv.errors import RunError
from tfode_adv.evaluation.records import NO_ANSWER
from tfode_adv.evaluation.results import Result, grouped
from tfode_adv.evaluation.runner import KEEP_IMAGES
from tfode_adv.rendering.charts import Picture, magnified, png
from tfode_adv.rendering.document import Card, Gallery
from tfode_adv.rendering.tables import number
from tfode_adv.reports.naming import Names

MOST = 12


def galleries(results: Iterable[Result], most: int = MOST) -> list[Gallery]:
    """A few galleries: for each subject, attack, norm and gradient the smallest eps that turns half of the
    images at some tolerance (else the largest), at the finest and the coarsest tolerance. Each shows the first
    `KEEP_IMAGES` of the images kept: figure 2 keeps a thousand, which no page can hold."""
    results = list(results)
    names = Names(results)
    attacked = [result for result in results if result.images and result.configuration.attack != "none"]
    chosen = []
    for _, group in grouped(attacked, names.subject, names.attack, lambda r: r.configuration.norm):
        eps = _telling(group)
        for _, cells in grouped([r for r in group if r.configuration.eps == eps], lambda r: r.gradient):
            ordered = sorted(cells, key=lambda r: r.configuration.tol or 0.0)
            chosen += [ordered[0], *ordered[1:][-1:]]
    return [_gallery(result, names) for result in chosen[:most]]


def _telling(group: Sequence[Result]) -> float | None:
    radii = [(result.configuration.eps or 0.0, result) for result in group]
    halved = [eps for eps, result in radii if (result.summary.success.value or 0.0) >= 0.5]
    eps = min(halved, default=max(eps for eps, _ in radii))
    return next(result.configuration.eps for found, result in radii if found == eps)


def _gallery(result: Result, names: Names) -> Gallery:
    cell = result.configuration
    parts = [
        names.subject(result),
        names.attack(result),
        f"{cell.norm} ε = {number(cell.eps)}" if cell.eps is not None else cell.norm,
        result.gradient,
        f"τ = {number(cell.tol)}" if cell.tol is not None else None,
    ]
    title = ", ".join(part for part in parts if part)
    found = [index for index in result.images if index in result.records]
    if len(found) > KEEP_IMAGES:
        title += f" (the first {KEEP_IMAGES} of {len(found):,} images kept)"
    cards, unread = [], []
    for index in found[:KEEP_IMAGES]:
        try:
            cards.append(_card(result, index))
        except RunError as error:
            unread.append(str(error))
    if unread:
        title += f" ({len(unread)} left out: {unread[0]})"
    return Gallery(title, cards)


def _card(result: Result, index: int) -> Card:
    record = result.records[index]
    clean, adversarial = result.images[index]
    difference, factor = magnified(clean, adversarial)
    by = f"{factor:.3g}"
    if not record.correct:
        text = f"label {record.label}, predicted {record.clean} without an attack"
    else:
        distance = "" if record.distance is None else f", distance {record.distance:.3g}"
        answer = "no answer" if record.adversarial == NO_ANSWER else record.adversarial
        text = f"label {record.label}, predicted {record.clean} → {answer}{distance}"
    return Card(
        index=index,
        clean=_picture("clean", f"clean image {index}", clean),
        adversarial=_picture("attacked", f"image {index} under attack", adversarial),
        perturbation=_picture("change", f"the perturbation, magnified by {by}", difference),
        factor=by,
        turned=record.success,
        text=text,
    )


def _picture(name: str, text: str, pixels: np.ndarray) -> Picture:
    return Picture(name, text, text, png(pixels), "png")
