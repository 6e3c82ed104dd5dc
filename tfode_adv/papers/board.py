"""The board: each published claim beside what our runs hold of it, by the published attack and in the worst case."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tfode_adv.diagnosis import reader
from tfode_adv.errors import RunError
from tfode_adv.evaluation import evidence
from tfode_adv.evaluation.evidence import Pack
from tfode_adv.evaluation.records import Cell
from tfode_adv.files import PathLike
from tfode_adv.papers.claims import Claim, claims
from tfode_adv.papers.reproduction import Shelf, command_line, same
from tfode_adv.published import GRADIENTS, published
from tfode_adv.rendering.rates import Rate
from tfode_adv.rendering.tables import Compared, Table, number
from tfode_adv.run_folder import Run

NUM_EXAMPLES, NUM_DIAGNOSED = 1000, 200
_NORMS = {"linf": "Linf", "l2": "L2", "l2rms": "L2, root mean square"}
_NOTE = (
    "Shares of all images that are classified correctly, in per cent, with 95 % Wilson intervals. Ours: by the "
    "published attack. Worst case: of all that the diagnosis tried, at most so much is left. – where nothing was "
    "measured."
)


@dataclasses.dataclass(frozen=True)
class Worst:
    """What a diagnosis says of a claim.

    Attributes:
        rate: the share of its images that no attack turned.
        eps: the radius it was made at; one below the claim's bounds the claim's all the same.
        set_by: the attack that turned most by itself.
        label, gradients, left: as in `analysis.verdict.Verdict`.
    """

    rate: Rate
    eps: float
    set_by: str | None
    label: str
    gradients: str
    left: float | None


@dataclasses.dataclass(frozen=True)
class Row:
    """One claim and ours.

    Attributes:
        claim: the paper's.
        clean, robust: ours without an attack and by the published one; None where it was not measured.
        worst: ours over all attacks; None where there is no diagnosis.
        commands: what measures it, in order.
        notes: what was found and left out.
        pack: an evidence pack of the published attack on a network of the zoo, which any reader can ask, if any.
    """

    claim: Claim
    clean: Rate | None
    robust: Rate | None
    worst: Worst | None
    commands: Sequence[str]
    notes: Sequence[str] = ()
    pack: Pack | None = None

    @property
    def gap(self) -> float | None:
        """By how much the worst case lies below the claim, in [-1, 1]; None where either is not known."""
        claimed = self.claim.robust
        return None if self.worst is None or claimed is None else claimed - self.worst.rate.value

    @property
    def smaller(self) -> str:
        """A sentence where the diagnosis is of a smaller radius than the claim's; none elsewhere."""
        if self.worst is None or same(self.worst.eps, self.claim.attacked.eps):
            return ""
        return f"The diagnosis was made at the smaller radius {number(self.worst.eps)}, which bounds this one."

    @property
    def evidence(self) -> str | None:
        """The pack's path beside the board; None where there is none."""
        attacked = self.claim.attacked
        model = attacked.model.recipe.rpartition("/")[2]
        name = f"evidence/{self.claim.paper}-{model}-{attacked.norm}-{number(attacked.eps)}.npz"
        return None if self.pack is None else name


def rows(root: PathLike, data_dir: str | None = None, num_examples: int = NUM_EXAMPLES) -> list[Row]:
    """Every claim, with what the run folders under `root` hold.

    Args:
        root: where the run folders are, at any depth.
        data_dir: handed on in commands, None for TFDS's own.
        num_examples: test images that a figure by the published attack must rest on.
    """
    shelves: dict[tuple[str, str], Shelf] = {}
    every = claims()
    for one in every:
        key = one.paper, one.dataset
        wanted = [other.attacked for other in every if (other.paper, other.dataset) == key]
        if key not in shelves:
            shelves[key] = Shelf(root, one.dataset, num_examples, GRADIENTS[one.paper], data_dir, wanted)
    return [_row(one, shelves[one.paper, one.dataset]) for one in every]


def _row(claim: Claim, shelf: Shelf) -> Row:
    run = shelf.run_of(claim.attacked.model)
    commands = [*shelf.commands([claim.attacked]), _diagnosis_command(claim, shelf)]
    if run is None:
        return Row(claim, None, None, None, commands)
    result = shelf.find(claim.attacked)
    worst, notes = _worst(claim, run)
    if result is None:
        return Row(claim, None, None, worst, commands, notes)
    summary = result.summary
    path = evidence.smallest_of(Cell.of(run.path, result.configuration))
    pack = None if path is None else evidence.Pack.read(path)
    shown = pack if pack is not None and pack.network else None
    return Row(claim, summary.accuracy, summary.robust, worst, commands, notes, shown)


def _diagnosis_command(claim: Claim, shelf: Shelf) -> str:
    attacked = claim.attacked
    flags: dict[str, Any] = {"run": shelf.run_flag(attacked.model), "tol": attacked.tol and number(attacked.tol)}
    flags |= {"norm": attacked.norm}
    # A single step of the whole radius is FGSM.
    steps, length = (1, attacked.eps) if attacked.steps is None else (attacked.steps, attacked.step_size)
    flags |= {"eps": number(attacked.eps), "steps": steps, "step_size": number(length)}
    flags |= {"gradient": claim.gradient, "num_examples": NUM_DIAGNOSED}
    return command_line("diagnose", {**flags, "data_dir": shelf.data_dir})


def _worst(claim: Claim, run: Run) -> tuple[Worst | None, list[str]]:
    """The run's diagnosis at the claim's tolerance and norm, at its radius or else the next smaller one."""
    try:
        found = reader.read(claim.attacked.model.label, run)
        documents = reader.documents(found.document, run)
    except RunError as error:
        return None, [str(error)]
    attacked = claim.attacked
    fitting = [
        _said(at["verdict"], document["settings"]["ε"])
        for document in documents
        if document["settings"]["norm"] == attacked.norm and document["settings"]["ε"] <= attacked.eps * (1 + 1e-6)
        for at in document["tolerances"]
        if same(at["tol"], attacked.tol)
    ]
    return max(fitting, key=lambda worst: worst.eps, default=None), list(found.notes)


def _said(verdict: Mapping[str, Any], eps: float) -> Worst:
    rate = Rate(verdict["worst_case"], verdict["images"])
    return Worst(rate, eps, *(verdict[name] for name in ("set_by", "label", "gradients", "left")))


def table(found: Sequence[Row]) -> Table:
    """The board as a table, the widest gap between claim and worst case first, what is not measured last."""
    lines = [
        [
            row.claim.attacked.model.label,
            row.claim.paper,
            row.claim.dataset,
            budget_of(row.claim),
            None if row.claim.attacked.tol is None else number(row.claim.attacked.tol),
            Compared(row.robust, row.claim.robust, 1, percent=True),
            row.worst and row.worst.rate,
            row.worst and row.worst.label,
            row.worst and row.worst.set_by,
        ]
        for row in sorted(found, key=lambda row: -2 if row.gap is None else row.gap, reverse=True)
    ]
    headers = ["network", "paper", "data", "attack", "τ", "ours [published]", "worst case", "verdict", "most turned by"]
    return Table("Published claims, measured again", headers, lines, _NOTE)


def budget_of(claim: Claim) -> str:
    """The published attack in a few words: its name and steps, norm and radius."""
    attacked = claim.attacked
    name = attacked.attack if attacked.steps is None else f"{attacked.attack}-{attacked.steps}"
    return f"{name}, {attacked.norm} {number(attacked.eps)}"


def records(found: Sequence[Row]) -> list[dict[str, Any]]:
    """One record a row in RobustBench's terms, percentages as text there, and what it has no name for beside.

    `autoattack_acc` is None: that attack was not run. `external` is our worst case, `unreliable` says that the
    verdict calls the gradients masked.
    """
    return [record(row) for row in found]


def record(row: Row) -> dict[str, Any]:
    """One row's record."""
    claim, attacked = row.claim, row.claim.attacked
    worst = row.worst
    return {
        "name": f"{claim.paper}: {attacked.model.label}",
        "venue": published(claim.paper)["source"],
        "dataset": claim.dataset,
        "architecture": attacked.model.name,
        "threat_model": _NORMS[attacked.norm],
        "eps": number(attacked.eps),
        "clean_acc": _percent(None if row.clean is None else row.clean.value),
        "reported": _percent(claim.robust),
        "autoattack_acc": None,
        "external": _percent(None if worst is None else worst.rate.value),
        "unreliable": None if worst is None else worst.label == "masked",
        "footnote": _footnote(row),
        "reported_clean": _percent(claim.clean),
        "published_attack": {
            "name": budget_of(claim),
            "gradient": claim.gradient,
            "tol": attacked.tol,
            "ours": None if row.robust is None else row.robust.as_dict(),
        },
        "worst_case": None if worst is None else {**dataclasses.asdict(worst), "rate": worst.rate.as_dict()},
        "evidence": row.evidence,
        "commands": list(row.commands),
    }


def _footnote(row: Row) -> str:
    if row.worst is None:
        return "No diagnosis of this network was made."
    made = f"{row.worst.rate.total} images; gradients {row.worst.gradients}; most turned by {row.worst.set_by}."
    return " ".join(filter(None, [made, row.smaller]))


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.2f}"
