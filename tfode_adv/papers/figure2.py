"""WIFS 2019, Figure 2: how far apart clean and adversarial states are along t, for each tolerance."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tfode_adv.analysis.travel import Travel
from tfode_adv.evaluation.results import Result
from tfode_adv.papers import layouts
from tfode_adv.papers.layouts import Measurement
from tfode_adv.papers.reproduction import Missing, Shelf, described
from tfode_adv.published import published
from tfode_adv.rendering.charts import Picture, Series, chart
from tfode_adv.rendering.document import Section
from tfode_adv.rendering.tables import Table, number

if TYPE_CHECKING:
    from tfode_adv.diagnosis.probe import Probe

MODELS = ("mix", "oon")
QUANTITIES = {"l2": "mean L2 distance", "cosine": "mean cosine distance"}


@dataclasses.dataclass(frozen=True)
class Figure:
    """The figure's charts and numbers, and what is missing for it."""

    sections: Sequence[Section]
    missing: Sequence[Missing]


@dataclasses.dataclass(frozen=True)
class _Shown:
    """The words of one model's part: pages hold the same figure for several gradients."""

    model: str
    attack: str
    gradient: str

    def title(self, what: str) -> str:
        return f"{self.model.upper()}: {what} ({self.attack})"

    def file(self, what: str) -> str:
        return f"{what}-{self.model}-{self.gradient}"


def measurements(dataset: str) -> list[Measurement]:
    """The attacks whose images the figure follows: table IV's, at every tolerance."""
    printed = published("wifs2019")["table4_best_tradeoff"][dataset]
    attack = layouts.wifs_attack(dataset, printed["attack"]["norm"], printed["attack"]["eps"])
    return [
        Measurement(layouts.wifs_model(name, dataset), "success", None, float(tol), **attack)
        for name in MODELS
        for tol in printed["error"][name]
    ]


def reproduce(shelf: Shelf, num_images: int) -> Figure:
    """The figure, from the images that evaluations kept.

    Args:
        shelf: our run folders.
        num_images: images to follow, of the first ones in the test set; those that the attack turned are
            (the others have no adversarial trajectory).
    """
    missing, sections = [], []
    for name in MODELS:
        found: dict[float, list[Travel]] = {}
        counts = {}
        probe = None
        entries = [one for one in measurements(shelf.dataset) if one.model.name == name]
        for wanted in entries:
            result = shelf.find(wanted)
            if result is None or len(result.images) < num_images:
                missing.append(Missing(wanted, shelf.commands([wanted], num_images=num_images)))
                continue
            probe = probe or _probe(shelf, wanted)
            counts[wanted.tol] = len(_turned(result, num_images))
            if counts[wanted.tol]:
                found[wanted.tol] = _follow(probe, result, num_images)
        if found:
            attack = described(entries, shelf.gradient)
            sections.append(_section(_Shown(name, attack, shelf.gradient), found, counts, num_images))
    return Figure(sections, missing)


def _probe(shelf: Shelf, wanted: Measurement) -> "Probe":
    from tfode_adv.diagnosis.probe import Probe

    return Probe(shelf.run_of(wanted.model).load_model())


def _turned(result: Result, num_images: int) -> list[int]:
    return [i for i in result.images if i < num_images and i in result.records and result.records[i].success]


def _follow(probe: "Probe", result: Result, num_images: int) -> list[Travel]:
    from tfode_adv.diagnosis.trajectories import travel

    turned = _turned(result, num_images)
    clean, adversarial = (np.stack(side) for side in zip(*(result.images[i] for i in turned), strict=True))
    labels = np.asarray([result.records[i].label for i in turned])
    return travel(probe, clean, adversarial, labels, tol=result.configuration.tol)


def _section(shown: _Shown, found: dict[float, list[Travel]], counts: dict[float, int], num_images: int) -> Section:
    rows, pictures = [], []
    for tol, travels in found.items():
        means, growth = travels[0].mean(), travels[0].growth()
        ends = [means.l2[0], means.l2[-1], means.cosine[0], means.cosine[-1]]
        rows.append([number(tol), counts[tol], *map(float, ends), growth.amplification, growth.fastest])
    for quantity, label in QUANTITIES.items():
        pictures.append(_chart(shown, quantity, label, found))
    headers = ["τ", "images turned", "L2 at t = 0", "L2 at t = 1", "cosine at t = 0", "cosine at t = 1"]
    table = Table(
        shown.title("distance between clean and adversarial states"),
        [*headers, "L2 grows by", "fastest at t ="],
        rows,
        note=f"Means (equation 5) over those of the first {num_images} test images that the attack turned.",
        name=shown.file("figure2"),
    )
    return Section(shown.title("states along t"), tables=[table], pictures=pictures)


def _chart(shown: _Shown, quantity: str, label: str, found: dict[float, list[Travel]]) -> Picture:
    series = [
        Series(f"τ = {number(tol)}", travels[0].times, getattr(travels[0].mean(), quantity))
        for tol, travels in found.items()
    ]
    return chart(shown.file(f"figure2-{quantity}"), shown.title(label), series, x_label="t", y_label=label)
