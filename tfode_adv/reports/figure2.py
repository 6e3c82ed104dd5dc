"""WIFS 2019, Figure 2: how far apart clean and adversarial states are along t, for each tolerance."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tfode_adv.analysis.probe import Probe
from tfode_adv.analysis.trajectories import Travel, travel
from tfode_adv.reports import papers
from tfode_adv.reports.document import Section
from tfode_adv.reports.papers import Measurement
from tfode_adv.reports.plotting import Picture, Series, chart
from tfode_adv.reports.reproduction import Missing, Shelf
from tfode_adv.reports.results import Result
from tfode_adv.reports.tables import Table, number

MODELS = ("mix", "oon")
QUANTITIES = {"l2": "mean L2 distance", "cosine": "mean cosine distance"}


@dataclasses.dataclass(frozen=True)
class Figure:
    """The figure's charts and numbers, and what is missing for it."""

    sections: Sequence[Section]
    missing: Sequence[Missing]


def measurements(dataset: str) -> list[Measurement]:
    """The attacks whose images the figure follows: table IV's, at every tolerance."""
    printed = papers.published("wifs2019")["table4_best_tradeoff"][dataset]
    attack = papers.wifs_attack(dataset, printed["attack"]["norm"], printed["attack"]["eps"])
    return [
        Measurement(papers.wifs_model(name, dataset), "success", None, float(tol), **attack)
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
        for wanted in measurements(shelf.dataset):
            if wanted.model.name != name:
                continue
            result = shelf.find(wanted)
            if result is None or len(result.images) < num_images:
                missing.append(Missing(wanted, shelf.commands([wanted], num_images=num_images)))
                continue
            probe = probe or Probe(shelf.run_of(wanted.model).load_model())
            counts[wanted.tol] = len(_turned(result, num_images))
            if counts[wanted.tol]:
                found[wanted.tol] = _follow(probe, result, num_images)
        if found:
            sections.append(_section(name.upper(), found, counts, num_images))
    return Figure(sections, missing)


def _turned(result: Result, num_images: int) -> list[int]:
    return [i for i in result.images if i < num_images and i in result.records and result.records[i].success]


def _follow(probe: Probe, result: Result, num_images: int) -> list[Travel]:
    turned = _turned(result, num_images)
    clean, adversarial = (np.stack([result.images[i][side] for i in turned]) for side in (0, 1))
    labels = np.asarray([result.records[i].label for i in turned])
    return travel(probe, clean, adversarial, labels, tol=result.configuration.tol)


def _section(model: str, found: dict[float, list[Travel]], counts: dict[float, int], num_images: int) -> Section:
    rows, pictures = [], []
    for tol, travels in found.items():
        means, growth = travels[0].mean(), travels[0].growth()
        ends = [means["l2"][0], means["l2"][-1], means["cosine"][0], means["cosine"][-1]]
        rows.append([number(tol), counts[tol], *map(float, ends), growth["amplification"], growth["fastest"]])
    for quantity, label in QUANTITIES.items():
        pictures.append(_chart(model, quantity, label, found))
    headers = ["τ", "images turned", "L2 at t = 0", "L2 at t = 1", "cosine at t = 0", "cosine at t = 1"]
    table = Table(
        f"{model}: distance between clean and adversarial states",
        [*headers, "L2 grows by", "fastest at t ="],
        rows,
        note=f"Means (equation 5) over those of the first {num_images} test images that the attack turned.",
    )
    return Section(f"{model}: states along t", tables=[table], pictures=pictures)


def _chart(model: str, quantity: str, label: str, found: dict[float, list[Travel]]) -> Picture:
    series = [
        Series(f"τ = {number(tol)}", travels[0].times, travels[0].mean()[quantity]) for tol, travels in found.items()
    ]
    return chart(f"figure2-{quantity}", f"{model}: {label}", series, x_label="t", y_label=label)
