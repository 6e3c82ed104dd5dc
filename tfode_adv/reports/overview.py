"""The tables of a report, from results."""

from collections.abc import Callable, Iterable, Sequence

from tfode_adv.evaluation.records import NO_ANSWER
from tfode_adv.evaluation.results import Result, grouped
from tfode_adv.rendering.rates import Rate
from tfode_adv.rendering.tables import Table, number, show
from tfode_adv.reports.naming import Names, solver

_INTERVALS = "Ranges are 95 % Wilson intervals."
_WORST = "Worst of these: of the images that all of them were run on, those that any of them turned."


def tables(results: Sequence[Result]) -> list[Table]:
    """Clean images; success and robust accuracy over tolerances, for each subject; every configuration."""
    names = Names(results)
    found = [clean_table(results)]
    for (subject,), group in grouped(_attacked(results), names.subject):
        note = f"Of the correctly classified images. {_WORST} {_INTERVALS}"
        found.append(_over_tolerances(f"{subject}: attack success rate", group, names, _success, _all_turned, note))
        note = f"Of all images. {_WORST} {_INTERVALS}"
        found.append(_over_tolerances(f"{subject}: robust accuracy", group, names, _robust, _none_turned, note))
    found.append(attack_table(results, folded=True))
    return [table for table in found if table.rows]


def headlines(results: Sequence[Result]) -> list[str]:
    """For each subject and budget, how much is left in the worst case of the attacks that were run."""
    names = Names(results)
    keys = (names.subject, lambda r: r.configuration.norm, lambda r: r.configuration.eps)
    return [
        f"{subject}, {norm}, ε = {number(eps)}: {_left(group, names)}."
        for (subject, norm, eps), group in grouped(_attacked(results), *keys)
    ]


def _left(group: Sequence[Result], names: Names) -> str:
    """What the attacks run at the finest and at the coarsest tolerance leave there."""
    by_tol = [cells for _, cells in grouped(sorted(group, key=_tol), lambda r: r.configuration.tol)]
    ends = (by_tol[0], *by_tol[1:][-1:])
    left = [f"{show(_none_turned(cells))}{_at(cells[0])}" for cells in ends]
    attacks = [{(names.attack(cell), cell.gradient) for cell in cells} for cells in ends]
    tried = ["the attack tried" if len(some) == 1 else f"the worst of {len(some)} attacks" for some in attacks]
    if attacks[0] == attacks[-1]:
        return f"{tried[0]} leaves {', '.join(left)} correct"
    each = [f"{who} leaves {what}" for who, what in zip(tried, left, strict=True)]
    return f"{', '.join(each)} correct (not the same attacks)"


def _attacked(results: Iterable[Result]) -> list[Result]:
    return [result for result in results if result.configuration.attack != "none"]


def _tol(result: Result) -> float:
    return result.configuration.tol or 0.0


def _at(result: Result) -> str:
    return "" if result.configuration.tol is None else f" at τ = {number(result.configuration.tol)}"


def clean_table(results: Iterable[Result]) -> Table:
    """Error and cost without an attack."""
    results = list(results)
    names = Names(results)
    rows = [
        [
            names.model(result),
            number(result.configuration.tol),
            solver(result),
            len(result.records),
            result.summary.clean_error,
            result.summary.nfe_clean,
        ]
        for result in results
        if result.configuration.attack == "none"
    ]
    return Table("Clean images", ["model", "τ", "solver", "images", "error", "mean NFE"], rows, note=_INTERVALS)


def attack_table(results: Iterable[Result], folded: bool = False) -> Table:
    """Success, robust accuracy and cost, one row a configuration."""
    results = list(results)
    names = Names(results)
    rows = []
    for result in _attacked(results):
        cell, summary = result.configuration, result.summary
        rows.append(
            [
                names.subject(result),
                number(cell.tol),
                names.attack(result),
                cell.norm,
                number(cell.eps),
                result.gradient,
                len(result.records),
                summary.clean_error,
                summary.success,
                summary.robust,
                summary.nfe_adversarial,
                summary.distance,
            ]
        )
    headers = ["model", "τ", "attack", "norm", "ε", "gradient", "images", "clean error"]
    headers += ["attack success", "robust accuracy", "mean NFE", "median distance"]
    note = f"Attack success: of the correctly classified images; robust accuracy: of all images. {_INTERVALS}"
    unanswered = sum(record.adversarial == NO_ANSWER for result in results for record in result.records.values())
    if unanswered:
        note += f" Attacked images that a solve failed for, {unanswered} in all rows, count as turned."
    return Table("Every attack configuration", headers, rows, note=note, folded=folded)


def _over_tolerances(
    title: str,
    results: Sequence[Result],
    names: Names,
    rate: Callable[[Result], Rate],
    worst: Callable[[Sequence[Result]], Rate],
    note: str,
) -> Table:
    """One row an attack, one column a tolerance; below the attacks of one budget their worst case."""
    tols = list(dict.fromkeys(sorted((r.configuration.tol for r in results), key=lambda tol: tol or 0.0)))
    rows = []
    budgets = grouped(results, lambda r: r.configuration.norm, lambda r: r.configuration.eps)
    for (norm, eps), group in budgets:
        attacks = grouped(group, names.attack, lambda r: r.gradient)
        for (attack, gradient), cells in attacks:
            found = {cell.configuration.tol: rate(cell) for cell in cells}
            rows.append([attack, norm, number(eps), gradient, *(found.get(tol) for tol in tols)])
        if len(attacks) > 1:
            cells = [[cell for cell in group if cell.configuration.tol == tol] for tol in tols]
            rows.append(["worst of these", norm, number(eps), None, *(worst(c) if c else None for c in cells)])
    columns = ["rate" if tol is None else f"τ = {number(tol)}" for tol in tols]
    return Table(title, ["attack", "norm", "ε", "gradient", *columns], rows, note=note)


def _success(result: Result) -> Rate:
    return result.summary.success


def _robust(result: Result) -> Rate:
    return result.summary.robust


def _all_turned(results: Sequence[Result]) -> Rate:
    correct, turned, _ = _worst(results)
    return Rate(turned, correct)


def _none_turned(results: Sequence[Result]) -> Rate:
    correct, turned, total = _worst(results)
    return Rate(correct - turned, total)


def _worst(results: Sequence[Result]) -> tuple[int, int, int]:
    """Of the images that all attacks were run on: those classified correctly, those turned by at least one, all."""
    # The others would count as withstanding attacks that they never met.
    common = set.intersection(*(set(result.records) for result in results))
    records = [result.records[index] for result in results for index in common]
    correct = {record.index for record in records if record.correct}
    turned = {record.index for record in records if record.success}
    return len(correct), len(turned), len(common)
