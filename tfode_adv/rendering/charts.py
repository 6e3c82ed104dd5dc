"""Line charts and small pictures as bytes, drawn without a display.

Colours are those of Okabe and Ito (2008), which people with any colour vision tell apart; every line also
has a marker and a dash of its own.
"""

import base64
import dataclasses
import io
import typing
from collections.abc import Iterable, Sequence

import numpy as np

from tfode_adv.rendering.tables import number

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
DASHES = ("-", "--", "-.", ":")
_STYLE = {
    "svg.hashsalt": "tfode_adv",
    "svg.fonttype": "path",
    "font.size": 10,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclasses.dataclass(frozen=True)
class Series:
    """One line: `x`, `y` and where known the interval's bounds; `notes` stand beside the points."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    notes: Sequence[str] | None = None


@dataclasses.dataclass(frozen=True)
class Picture:
    """A finished picture.

    Attributes:
        name: a file's name without its ending.
        title: one line above it.
        text: what it shows, for those who do not see it.
        data: the file's bytes.
        kind: svg or png.
    """

    name: str
    title: str
    text: str
    data: bytes
    kind: str = "svg"

    @property
    def uri(self) -> str:
        """The picture as a `data:` address, so that a page holds it."""
        return data_uri(self.data, self.kind)


def data_uri(data: bytes, kind: str) -> str:
    """Bytes of an svg or png file as a `data:` address."""
    media = {"svg": "image/svg+xml", "png": "image/png"}[kind]
    return f"data:{media};base64,{base64.b64encode(data).decode('ascii')}"


def chart(
    name: str,
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    percent: bool = False,
    whole: bool = True,
    places: Sequence[str] | None = None,
) -> Picture:
    """A line chart with its legend.

    Args:
        name, title: the picture's.
        series: the lines.
        x_label, y_label: with units.
        log_x: logarithmic abscissa; the points' own values are its ticks.
        percent: the ordinate is a share, drawn in per cent.
        whole: a share's axis goes from 0 to 100 %, else only as far as the lines do.
        places: names of x = 0, 1, 2, ... where these are no numbers: nothing joins the points then.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        scale = 100.0 if percent else 1.0
        for place, line in enumerate(series):
            if places is None:
                _draw(axes, line, place, scale)
            else:
                _draw_apart(axes, line, place, scale, (place - (len(series) - 1) / 2) * 0.1)
        if places is not None:
            axes.set_xticks(range(len(places)), places, rotation=30, horizontalalignment="right")
        if log_x:
            axes.set_xscale("log")
            ticks = sorted({x for line in series for x in line.x})
            axes.set_xticks(ticks, [number(tick) for tick in ticks])
            axes.minorticks_off()
        if percent and whole:
            axes.set_ylim(-3, 103)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        # A line's name may hold a dollar, which must not begin a formula.
        for label in axes.legend(fontsize=8, framealpha=0.8).get_texts():
            label.set_parse_math(False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    lines = ", ".join(line.label for line in series)
    along = f" ({', '.join(places)})" if places else ""
    return Picture(name, title, f"{title}: {y_label} against {x_label}{along}; lines: {lines}", buffer.getvalue())


def png(pixels: np.ndarray) -> bytes:
    """An image [H, W, 1 or 3] in [0, 1] as a PNG file."""
    from matplotlib import image

    pixels = np.clip(np.nan_to_num(pixels), 0.0, 1.0)
    shown = np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels[..., :3]
    buffer, metadata = io.BytesIO(), typing.cast(dict[str, str], {"Software": None})
    image.imsave(buffer, np.round(255 * shown).astype(np.uint8), format="png", metadata=metadata)
    return buffer.getvalue()


def magnified(clean: np.ndarray, adversarial: np.ndarray) -> tuple[np.ndarray, float]:
    """The perturbation around mid-grey, as large as it fits.

    Returns:
        The picture [H, W, C] in [0, 1], and the factor it was magnified by.
    """
    difference = np.asarray(adversarial, np.float64) - clean
    largest = float(np.abs(difference).max(initial=0.0))
    factor = 0.5 / largest if largest > 0 else 1.0
    return 0.5 + factor * difference, factor


def _draw(axes, line: Series, place: int, scale: float) -> None:
    order = np.argsort(line.x, kind="stable")
    x = np.asarray(line.x, float)[order]
    y = scale * np.asarray(line.y, float)[order]
    look = _look(line, place)
    axes.plot(x, y, markevery=max(1, len(x) // 8), linestyle=DASHES[place % len(DASHES)], **look)
    if line.low is not None and line.high is not None:
        low, high = (scale * np.asarray(bound, float)[order] for bound in (line.low, line.high))
        axes.fill_between(x, low, high, color=look["color"], alpha=0.13, linewidth=0)
    for index, place in enumerate(order if line.notes is not None else ()):
        axes.annotate(line.notes[place], (x[index], y[index]), xytext=(4, 4), textcoords="offset points", fontsize=7)


def _draw_apart(axes, line: Series, place: int, scale: float, shift: float) -> None:
    """Points with their intervals, each line's a little beside the others'."""
    y, low, high = (scale * np.asarray(values, float) for values in (line.y, line.low, line.high))
    axes.errorbar(
        np.asarray(line.x, float) + shift,
        y,
        yerr=[np.maximum(y - low, 0), np.maximum(high - y, 0)],
        linestyle="none",
        linewidth=1,
        **_look(line, place),
    )


def _look(line: Series, place: int) -> dict[str, typing.Any]:
    """What tells the line at a place in the legend from the others."""
    return {
        "color": PALETTE[place % len(PALETTE)],
        "marker": MARKERS[place % len(MARKERS)],
        "markersize": 5,
        # Matplotlib hides a name that begins with an underscore.
        "label": f" {line.label}",
    }


def file_names(pictures: Iterable[Picture]) -> list[str]:
    """A file name of its own for each picture."""
    return [f"{picture.name}-{place}.{picture.kind}" for place, picture in enumerate(pictures, start=1)]
