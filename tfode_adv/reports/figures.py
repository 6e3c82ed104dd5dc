"""The charts of a report, from results."""

from collections.abc import Callable, Iterable, Sequence

from tfode_adv.evaluation.results import Result, grouped
from tfode_adv.rendering.charts import Picture, Series, chart
from tfode_adv.rendering.rates import Rate
from tfode_adv.rendering.tables import number
from tfode_adv.reports.naming import Names, solver

MOST_LINES = 7


def security_curves(results: Iterable[Result]) -> list[Picture]:
    """Attack success against eps: one chart a subject, attack, norm and gradient, one line a tolerance."""
    pictures = []
    attacked, names = _attacked(results)
    for (subject, attack, norm, gradient), group in grouped(attacked, names.subject, names.attack, _norm, _gradient):
        series = [
            _rates(f"τ = {number(tol)}" if tol is not None else subject, lines, lambda r: r.configuration.eps)
            for (tol,), lines in grouped(group, _tol)
        ]
        title = _join(subject, attack, norm, gradient)
        pictures += _charts("security", title, series, x_label=f"ε ({norm})", y_label="attack success (%)")
    return pictures


def success_against_tolerance(results: Iterable[Result], several: bool | None = None) -> list[Picture]:
    """Attack success against the solver's tolerance: one chart a subject, attack, norm and eps, one line a
    source of gradients.

    Args:
        results: those to draw.
        several: True for the charts of attacks that followed several gradients alone, False for the others alone.
    """
    pictures = []
    attacked, names = _attacked(results)
    adaptive = [result for result in attacked if result.configuration.tol is not None]
    for (subject, attack, norm, eps), group in grouped(adaptive, names.subject, names.attack, _norm, _eps):
        series = [
            _rates(gradient or "no gradient", lines, lambda r: r.configuration.tol)
            for (gradient,), lines in grouped(group, _gradient)
        ]
        if several not in (None, len(series) > 1):
            continue
        title = _join(subject, attack, norm, f"ε = {number(eps)}")
        labels = {"x_label": "τ, tolerance of the solver", "y_label": "attack success (%)"}
        pictures += _charts("tolerance", title, series, log_x=True, **labels)
    return pictures


def accuracy_against_cost(results: Iterable[Result]) -> list[Picture]:
    """Clean accuracy against NFE, one line a subject, the tolerance beside each point."""
    results = list(results)
    clean = [r for r in results if r.configuration.attack == "none" and r.configuration.tol is not None]
    series = []
    for (subject,), group in grouped(clean, Names(results).subject):
        series.append(
            _line(
                subject,
                group,
                lambda result: result.summary.nfe_clean,
                lambda result: result.summary.accuracy,
                [f"τ = {number(result.configuration.tol)}" for result in group],
            )
        )
    labels = {"x_label": "mean NFE an image", "y_label": "clean accuracy (%)"}
    return _charts("cost", "Clean accuracy against NFE, over τ", series, whole=False, **labels)


def robustness_by_solver(results: Iterable[Result]) -> list[Picture]:
    """Robust accuracy under each solver, the adaptive ones first: one chart a model, norm and eps.

    Each attack and source of gradients is drawn where it met several solvers: whether an adaptive solver looks robust
    to an attack where one of fixed steps does not is seen at a glance.
    """
    pictures = []
    attacked, names = _attacked(results)
    solved = [result for result in attacked if result.configuration.solver is not None]
    for (model, norm, eps), group in grouped(solved, names.model, _norm, _eps):
        fixed_last = sorted(group, key=lambda result: result.configuration.tol is None)
        places = list(dict.fromkeys(map(_place, fixed_last)))
        series = [
            _line(
                _join(attack, gradient),
                lines,
                lambda r, places=places: places.index(_place(r)),
                lambda r: r.summary.robust,
            )
            for (attack, gradient), lines in grouped(fixed_last, names.attack, _gradient)
            if len({result.configuration.solver for result in lines}) > 1
        ]
        labels = {"x_label": "solver", "y_label": "robust accuracy (%)", "places": places}
        pictures += _charts("solvers", _join(model, norm, f"ε = {number(eps)}"), series, **labels)
    return pictures


def _place(result: Result) -> str:
    """A solver's name along an axis, with its tolerance or steps."""
    tol = result.configuration.tol
    return _join(solver(result), None if tol is None else f"τ = {number(tol)}")


def _charts(kind: str, title: str, series: Sequence[Series], **options) -> list[Picture]:
    """The chart, in parts where it has more lines than the eye tells apart; none of single points."""
    if not any(len(set(line.x)) > 1 for line in series):
        return []
    parts = [series[start : start + MOST_LINES] for start in range(0, len(series), MOST_LINES)]
    pictures = []
    for place, part in enumerate(parts, start=1):
        heading = title if len(parts) == 1 else f"{title} ({place} of {len(parts)})"
        pictures.append(chart(kind, heading, part, percent=True, **options))
    return pictures


def _rates(label: str, group: Sequence[Result], x: Callable[[Result], float]) -> Series:
    return _line(label, group, x, lambda result: result.summary.success)


def _line(
    label: str,
    group: Sequence[Result],
    x: Callable[[Result], float],
    rate: Callable[[Result], Rate],
    notes: Sequence[str] | None = None,
) -> Series:
    rates = [rate(result) for result in group]
    return Series(
        label,
        [x(result) for result in group],
        [float("nan") if rate.value is None else rate.value for rate in rates],
        [rate.interval[0] for rate in rates],
        [rate.interval[1] for rate in rates],
        notes,
    )


def _attacked(results: Iterable[Result]) -> tuple[list[Result], Names]:
    """Those under an attack, and the names that all of them have."""
    results = list(results)
    return [result for result in results if result.configuration.attack != "none"], Names(results)


def _norm(result: Result) -> str | None:
    return result.configuration.norm


def _eps(result: Result) -> float | None:
    return result.configuration.eps


def _tol(result: Result) -> float | None:
    return result.configuration.tol


def _gradient(result: Result) -> str | None:
    return result.gradient


def _join(*parts: str | None) -> str:
    return ", ".join(part for part in parts if part)
