"""The tables of a report, from results."""

from collections.abc import Callable, Iterable, Sequence

from tfode_adv.reports.results import Result, grouped
from tfode_adv.reports.statistics import Rate
from tfode_adv.reports.tables import Table, number, show

_INTERVALS = "Ranges are 95 % Wilson intervals."
_WORST = "Worst of these: an image counts as turned if any of the attacks that were run on it turned it."


def tables(results: Sequence[Result]) -> list[Table]:
    """Clean images; success and robust accuracy over tolerances, for each model; every configuration."""
    attacked = [result for result in results if result.configuration.attack != "none"]
    found = [clean_table(results)]
    for (model,), group in grouped(attacked, lambda result: result.model):
        note = f"Of the correctly classified images. {_WORST} {_INTERVALS}"
        found.append(_over_tolerances(f"{model}: attack success rate", group, _success, _all_turned, note))
        note = f"Of all images. {_WORST} {_INTERVALS}"
        found.append(_over_tolerances(f"{model}: robust accuracy", group, _robust, _none_turned, note))
    found.append(attack_table(results, folded=True))
    return [table for table in found if table.rows]


def headlines(results: Sequence[Result]) -> list[str]:
    """For each model and budget, how much is left in the worst case of the attacks that were run."""
    attacked = [result for result in results if result.configuration.attack != "none"]
    keys = (lambda r: r.model, lambda r: r.configuration.norm, lambda r: r.configuration.eps)
    lines = []
    for (model, norm, eps), group in grouped(attacked, *keys):
        ends = [cells for _, cells in grouped(sorted(group, key=_tol), lambda r: r.configuration.tol)]
        left = [f"{show(_none_turned(cells))}{_at(cells[0])}" for cells in (ends[0], *ends[1:][-1:])]
        attacks = len(grouped(group, lambda r: r.attack, lambda r: r.gradient, _others))
        tried = "the attack tried" if attacks == 1 else f"the worst of {attacks} attacks"
        lines.append(f"{model}, {norm}, ε = {number(eps)}: {tried} leaves {', '.join(left)} correct.")
    return lines


def _tol(result: Result) -> float:
    return result.configuration.tol or 0.0


def _at(result: Result) -> str:
    return "" if result.configuration.tol is None else f" at τ = {number(result.configuration.tol)}"


def clean_table(results: Iterable[Result]) -> Table:
    """Error and cost without an attack."""
    rows = [
        [
            result.model,
            number(result.configuration.tol),
            result.configuration.solver,
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
    rows = []
    for result in results:
        cell, summary = result.configuration, result.summary
        if cell.attack != "none":
            rows.append(
                [
                    result.model,
                    number(cell.tol),
                    result.attack,
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
    return Table("Every attack configuration", headers, rows, note=note, folded=folded)


def _over_tolerances(
    title: str,
    results: Sequence[Result],
    rate: Callable[[Result], Rate],
    worst: Callable[[Sequence[Result]], Rate],
    note: str,
) -> Table:
    """One row an attack, one column a tolerance; below the attacks of one budget their worst case."""
    tols = list(dict.fromkeys(sorted((r.configuration.tol for r in results), key=lambda tol: tol or 0.0)))
    rows = []
    budgets = grouped(results, lambda r: r.configuration.norm, lambda r: r.configuration.eps)
    for (norm, eps), group in budgets:
        attacks = grouped(group, lambda r: r.attack, lambda r: r.gradient, _others)
        for (attack, gradient, _), cells in attacks:
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
    """Images classified correctly, those that at least one attack run on them turned, and all images."""
    records = [record for result in results for record in result.records.values()]
    correct = {record.index for record in records if record.correct}
    turned = {record.index for record in records if record.success}
    return len(correct), len(turned), len({record.index for record in records})


def _others(result: Result) -> str:
    """What else tells two configurations apart, beside tolerance and budget."""
    cell = result.configuration
    return repr((cell.solver, cell.num_steps, cell.seed, sorted(cell.hyperparameters.items())))
