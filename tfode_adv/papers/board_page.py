"""The board in a folder: a page that can be sorted, Markdown, CSV, and JSON in RobustBench's terms."""

import pathlib
from collections.abc import Callable, Sequence

from tfode_adv import files
from tfode_adv.papers.board import Row, budget_of, records, table
from tfode_adv.rendering import page
from tfode_adv.rendering.document import Board, Entry
from tfode_adv.rendering.folder import check_own
from tfode_adv.rendering.tables import markdown, number

TITLE = "Published claims of robust neural ODEs, measured again"
LEAD = (
    "Each row is a claim in print of a network under attack. Beside it stand our figure by the attack as it was "
    "published, the worst case over all attacks of a diagnosis, and its verdict: masked, where the published attack "
    "was misled; credible, where no sign of that was found; inconclusive; or not robust, where nine images in ten "
    "fall.",
    "Ours carry 95 % Wilson intervals. A worst case says at most so much is left; another attack may leave less.",
)
_EVIDENCE = "Images without and with the published attack; `bin/verify FILE` computes what is said of them again."
PAGE, MARKDOWN, CSV, JSON = "index.html", "README.md", "board.csv", "board.json"


def write(found: Sequence[Row], folder: files.PathLike, overwrite: bool = False) -> pathlib.Path:
    """Writes index.html, README.md, board.csv, board.json and evidence/ into a folder, over those of an earlier board.

    Returns:
        The path of the page.

    Raises:
        RunError: if the folder holds anything but a board and `overwrite` is False, or cannot be written.
    """
    folder = pathlib.Path(folder)
    if not overwrite:
        check_own(folder, JSON, "board")
    shown = table(found)
    files.write_json(folder / JSON, records(found))
    files.write_atomic(folder / CSV, shown.to_csv())
    files.write_atomic(folder / MARKDOWN, _markdown(found))
    for row in found:
        if row.pack is not None:
            row.pack.write(folder / row.evidence)
    files.write_atomic(folder / PAGE, page.render_board(_board(found)))
    return folder / PAGE


def _markdown(found: Sequence[Row]) -> str:
    parts = [f"# {TITLE}", *map(markdown, LEAD), table(found).to_markdown().rstrip()]
    packs = [row for row in found if row.pack is not None]
    if packs:
        parts += ["## Evidence", _EVIDENCE]
        parts.append("\n".join(f"- `{row.evidence}`: seal {row.pack.seal}" for row in packs))
    parts.append("## Commands")
    parts += [f"- {_title(row)}, {budget_of(row.claim)}\n\n      " + "\n      ".join(row.commands) for row in found]
    return "\n\n".join(parts) + "\n"


def _board(found: Sequence[Row]) -> Board:
    orders = [_places(found, key) for key in _ORDERS.values()]
    entries = [_entry(row, [places[index] for places in orders]) for index, row in enumerate(found)]
    return Board(TITLE, LEAD, list(_ORDERS), entries)


def _places(found: Sequence[Row], key: Callable[[Row], tuple]) -> list[int]:
    """Each row's place when they are sorted by `key`."""
    ordered = sorted(range(len(found)), key=lambda index: key(found[index]))
    return [ordered.index(index) for index in range(len(found))]


# What is not measured comes last.
_ORDERS: dict[str, Callable[[Row], tuple]] = {
    "widest gap": lambda row: (row.gap is None, -(row.gap or 0)),
    "worst case": lambda row: (row.worst is None, row.worst and row.worst.rate.value),
    "claimed": lambda row: (row.claim.robust is None, -(row.claim.robust or 0)),
    "paper": lambda row: (row.claim.paper, row.claim.dataset, row.claim.attacked.model.label),
    "verdict": lambda row: (row.worst is None, row.worst and row.worst.label),
}


def _title(row: Row) -> str:
    tol = row.claim.attacked.tol
    return row.claim.attacked.model.label + ("" if tol is None else f", τ = {number(tol)}")


def _entry(row: Row, places: Sequence[int]) -> Entry:
    worst, claimed = row.worst, row.claim.robust
    facts = [
        ("claimed", None if claimed is None else f"{100 * claimed:.1f} %"),
        ("ours, as published", row.robust),
        ("worst case, at most", None if worst is None else worst.rate),
        ("without an attack", row.clean),
        ("most turned by", None if worst is None else worst.set_by),
        ("gradients", None if worst is None else worst.gradients),
    ]
    label = "not measured" if worst is None else worst.label
    subtitle = f"{row.claim.paper} on {row.claim.dataset}: {budget_of(row.claim)}"
    facts = [(name, value) for name, value in facts if value is not None]
    return Entry(
        _title(row), subtitle, facts, label, label.replace(" ", "-"), row.smaller, row.commands, places, row.evidence
    )
