"""The pictures of a diagnosis."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tfode_adv.diagnosis.procedure import AtTolerance
from tfode_adv.rendering.charts import Picture, Series, chart
from tfode_adv.rendering.rates import Rate

TAU = "τ, tolerance of the solver"
# With more ODE blocks than these, one chart shows them all.
MANY_BLOCKS = 3


def pictures(found: Sequence[AtTolerance], steps: int) -> dict[str, list[Picture]]:
    """By section: verdict, gradients, trajectories, detection.

    Args:
        found: the diagnosis at each tolerance; steps: of the published attack.
    """
    adaptive = [at for at in found if at.tol is not None]
    return {
        "verdict": [*_accuracies(adaptive), *_success_by_source(adaptive, steps)],
        "gradients": [_surfaces(found)] if any(at.surface for at in found) else [],
        "trajectories": _trajectories(found),
        "detection": _curves(adaptive),
    }


def _accuracies(found: Sequence[AtTolerance]) -> list[Picture]:
    """Clean, published and worst-case accuracy against the tolerance, with 95 % intervals."""
    if len(found) < 2:
        return []
    names = {"clean": "no attack", "published": "published attack", "worst_case": "worst case per image"}
    series = []
    for field, label in names.items():
        rates = [Rate(getattr(at.verdict, field), at.verdict.images) for at in found]
        series.append(_rates(label, [at.tol for at in found], rates))
    title = "Accuracy with and without attacks"
    return [chart("accuracy", title, series, x_label=TAU, y_label="accuracy (%)", log_x=True, percent=True)]


def _success_by_source(found: Sequence[AtTolerance], steps: int) -> list[Picture]:
    """Success of the same PGD against the tolerance, one line a source of gradients."""
    if len(found) < 2:
        return []
    series = []
    for source in dict.fromkeys(source for at in found for source in at.sources):
        at_source = [at for at in found if source in at.sources]
        outcomes = [at.pgd(source, steps) for at in at_source]
        rates = [Rate(int(one.turned.sum()), int(one.tried.sum())) for one in outcomes]
        series.append(_rates(source, [at.tol for at in at_source], rates))
    title = f"Success of PGD-{steps} by the source of its gradient"
    return [chart("sources", title, series, x_label=TAU, y_label="attack success (%)", log_x=True, percent=True)]


def _trajectories(found: Sequence[AtTolerance]) -> list[Picture]:
    """Distances between clean and adversarial states along t (WIFS 2019, Figure 2).

    For a few blocks, each block's distances and growth with one line a tolerance; for many, each
    tolerance's relative distance with one line a block.
    """
    blocks = list(dict.fromkeys(travel.layer for at in found for travel in at.travel))
    if len(blocks) > MANY_BLOCKS:
        return [_by_block(at) for at in found if at.travel]
    return [picture for number, block in enumerate(blocks) for picture in _by_tolerance(found, number, block)]


def _by_tolerance(found: Sequence[AtTolerance], number: int, block: str) -> list[Picture]:
    travels = [(_tolerance(at), one) for at in found for one in at.travel if one.layer == block]
    series: dict[str, list[Series]] = {"l2": [], "cosine": [], "growth": []}
    for label, travel in travels:
        for field, values in vars(travel.mean()).items():
            series[field].append(Series(label, travel.times.tolist(), values.tolist()))
        growth = travel.growth()
        series["growth"].append(Series(label, growth.midpoints.tolist(), growth.rate.tolist()))
    titles = {
        "l2": "Mean L2 distance",
        "cosine": "Mean cosine distance",
        "growth": "Growth rate d log(L2) / dt of the distance",
    }
    return [
        chart(
            f"{field}-{number}",
            f"{title} of clean and adversarial states in {block}",
            series[field],
            x_label="t",
            y_label=title.lower() if field != "growth" else "growth rate",
        )
        for field, title in titles.items()
    ]


def _by_block(at: AtTolerance) -> Picture:
    series = [Series(one.layer, one.times.tolist(), one.relative.mean(axis=1).tolist()) for one in at.travel]
    title = f"Relative L2 distance of clean and adversarial states by block, {_tolerance(at)}"
    return chart(f"blocks-{at.tol}", title, series, x_label="t", y_label="mean relative L2 distance")


def _curves(found: Sequence[AtTolerance]) -> list[Picture]:
    """ROC of each score at each tolerance, one line an attack."""
    drawn = []
    for at in found:
        detections = [one for one in at.detection.detections if one.auc is not None] if at.detection else []
        for score in dict.fromkeys(one.score for one in detections):
            series = [
                Series(
                    f"{one.attack} (AUC {one.auc:.2f})",
                    one.curve.false_positive_rate.tolist(),
                    one.curve.true_positive_rate.tolist(),
                )
                for one in detections
                if one.score == score
            ]
            title = f"Detection by {score}, τ = {at.tol:g}"
            labels = {"x_label": "false positive rate", "y_label": "true positive rate"}
            drawn.append(chart(f"roc-{score}-{at.tol:g}", title, series, **labels))
    return drawn


def _surfaces(found: Sequence[AtTolerance]) -> Picture:
    """Loss around one image: a row for each gradient source, a column for each tolerance."""
    drawn = [at for at in found if at.surface]
    sources = list(dict.fromkeys(source for at in drawn for source in at.surface.losses))
    losses = [values for at in drawn for values in at.surface.losses.values()]
    low, high = min(map(np.nanmin, losses)), max(map(np.nanmax, losses))
    figure = Figure(figsize=(1.2 + 2.1 * len(drawn), 0.9 + 2.0 * len(sources)), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(sources), len(drawn), squeeze=False, sharex=True, sharey=True)
    for row, source in enumerate(sources):
        for column, at in enumerate(drawn):
            panel = panels[row][column]
            offsets, values = at.surface.offsets, at.surface.losses.get(source)
            if values is not None:
                shown = panel.contourf(
                    offsets, offsets, values.T, levels=np.linspace(low, high + 1e-9, 13), cmap="cividis"
                )
            panel.plot(0, 0, "w+", markersize=6)
            panel.tick_params(labelsize=7)
            if row == 0 and at.tol is not None:
                panel.set_title(f"τ = {at.tol:g}", fontsize=9)
            if row == len(sources) - 1:
                panel.set_xlabel("along the gradient", fontsize=8)
            if column == 0:
                panel.set_ylabel(f"{source}\nrandom direction", fontsize=8)
    figure.colorbar(shown, ax=panels, label="cross-entropy", shrink=0.8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    title = "Loss around one image, along its gradient's sign and a random sign vector"
    text = (
        f"{title}: contours of the cross-entropy, a row for each gradient ({', '.join(sources)}), a column for each τ"
    )
    return Picture("surface", title, text, buffer.getvalue(), "png")


def _tolerance(at: AtTolerance) -> str:
    return "the model's own steps" if at.tol is None else f"τ = {at.tol:g}"


def _rates(label: str, x: list[float], rates: Sequence[Rate]) -> Series:
    low, high = zip(*(rate.interval for rate in rates), strict=True)
    return Series(label, x, [rate.value or 0.0 for rate in rates], list(low), list(high))
