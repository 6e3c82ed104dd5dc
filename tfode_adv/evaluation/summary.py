"""From records to the rates of one configuration."""

import dataclasses
import statistics
from collections.abc import Iterable

from tfode_adv.evaluation.records import Record
from tfode_adv.rendering.rates import Rate


@dataclasses.dataclass(frozen=True)
class Summary:
    """What the records of one configuration say together.

    Attributes:
        clean_error: share of all images classified wrongly without the attack.
        success: share of the correctly classified images that the attack turned.
        robust: share of all images still classified correctly under the attack.
        nfe_clean, nfe_adversarial: mean evaluations of the dynamics an image.
        distance: median over the turned images, in the attack's norm.
        queries, gradients: means over the attacked images.
    """

    clean_error: Rate
    success: Rate
    robust: Rate
    nfe_clean: float | None
    nfe_adversarial: float | None
    distance: float | None
    queries: float | None
    gradients: float | None

    @property
    def accuracy(self) -> Rate:
        """Share of all images classified correctly without the attack."""
        return Rate(self.clean_error.total - self.clean_error.count, self.clean_error.total)

    def as_dict(self) -> dict:
        """Plain JSON values."""
        return {name: value.as_dict() if isinstance(value, Rate) else value for name, value in vars(self).items()}


def summarize(records: Iterable[Record]) -> Summary:
    """The summary of one configuration's records."""
    records = list(records)
    correct = [record for record in records if record.correct]
    turned = [record for record in correct if record.success]
    distances = [record.distance for record in turned if record.distance is not None]
    return Summary(
        clean_error=Rate(len(records) - len(correct), len(records)),
        success=Rate(len(turned), len(correct)),
        robust=Rate(len(correct) - len(turned), len(records)),
        nfe_clean=_mean(record.nfe_clean for record in records),
        nfe_adversarial=_mean(record.nfe_adversarial for record in records),
        distance=statistics.median(distances) if distances else None,
        queries=_mean(record.queries for record in correct),
        gradients=_mean(record.gradients for record in correct),
    )


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return statistics.fmean(values) if values else None
