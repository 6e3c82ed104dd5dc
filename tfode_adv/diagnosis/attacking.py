"""The attack table carried out at one tolerance: which rows are run, and on which images."""

from collections.abc import Sequence

import numpy as np

from tfode_adv.analysis.verdict import Outcome, worst_case
from tfode_adv.diagnosis import attack_table, measurements
from tfode_adv.diagnosis.attack_table import Row
from tfode_adv.diagnosis.measurements import Bench, Tolerance

# Once a costly attack alone turns more than this share of a sample, it is run on all images.
MASKED_SHARE = 0.05


class Attacks:
    """The rows run so far, what each did, and what it found.

    Attributes:
        correct: [N] bool, the images classified correctly without an attack: no others are tried.
        rows, outcomes: in the order of their running.
        queries, adversarial: by row, mean number of queries and images [N, ...].
    """

    def __init__(self, bench: Bench, tol: Tolerance, correct: np.ndarray):
        self._bench, self._tol, self.correct = bench, tol, correct
        self.rows: list[Row] = []
        self.outcomes: list[Outcome] = []
        self.queries: dict[str, float] = {}
        self.adversarial: dict[str, np.ndarray] = {}

    def run(self, rows: Sequence[Row]) -> None:
        """Runs rows of the table, those that follow others only where these found something and left something."""
        for row in rows:
            left = self.correct & ~worst_case(self.outcomes) if self.outcomes else self.correct
            if (row.follows or row.last) and not left.any():
                continue
            if row.follows and self.alone(row.source).sum() <= 1:
                continue
            self.rows.append(row)
            tried = self.correct
            if row.costly:
                tried = attack_table.costly_images(self.correct, self.outcomes[0], self._bench.budget)
            elif row.follows or row.last:
                tried = left
            self._attack(len(self.rows) - 1, tried)
            left &= ~worst_case(self.outcomes[:-1]) if len(self.outcomes) > 1 else left
            if row.costly and (self.outcomes[-1].turned & left).sum() > MASKED_SHARE * max(1, (tried & left).sum()):
                # What wins on a sample must be known of all images, or the worst case would be too good.
                self._attack(len(self.rows) - 1, left & ~tried)

    def alone(self, source: str) -> np.ndarray:
        """[N] bool: images that the rows along a source turned, and none of the others.

        Of an averaged gradient: and none that follows a gradient as it is. What needs no gradient says nothing of it.
        """
        pairs = list(zip(self.rows, self.outcomes, strict=False))
        ours = [outcome.turned for row, outcome in pairs if row.source == source]
        others = [outcome.turned for row, outcome in pairs if row.source != source]
        if source == attack_table.AVERAGED:
            hidden = ("none", *attack_table.DETOURS)
            others = [outcome.turned for row, outcome in pairs if row.direct and row.source not in hidden]
        nothing = np.zeros(len(self.correct), bool)
        return np.any([nothing, *ours], axis=0) & ~np.any([nothing, *others], axis=0)

    def _attack(self, index: int, tried: np.ndarray) -> None:
        """Runs the row at `index` on the images `tried`, and joins what it finds with what it found on others."""
        row = self.rows[index]
        found = measurements.attack(self._bench, self._tol, row, tried)
        turned, x_adv = found.turned, found.x_adv
        if index < len(self.outcomes):
            before = self.outcomes.pop(index)
            x_adv = np.where(tried.reshape([-1] + [1] * (x_adv.ndim - 1)), x_adv, self.adversarial[row.name])
            tried, turned = tried | before.tried, turned | before.turned
        self.outcomes.insert(index, Outcome(row.name, row.changes, tried, turned))
        self.queries.setdefault(row.name, found.queries)
        self.adversarial[row.name] = x_adv


def pgd(rows: Sequence[Row], outcomes: Sequence[Outcome], source: str, steps: int) -> Outcome:
    """What plain PGD of so many steps through a source did."""
    for row, outcome in zip(rows, outcomes, strict=False):
        plain = row.kind == "pgd" and "restarts" not in row.options
        if plain and row.source == source and row.options["steps"] == steps:
            return outcome
    raise KeyError(f"no PGD-{steps} through {source}")
