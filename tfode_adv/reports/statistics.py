"""From records to rates with confidence intervals."""

import dataclasses
import math
import statistics
from collections.abc import Iterable

from tfode_adv.reports.records import Record

Z95 = statistics.NormalDist().inv_cdf(0.975)


@dataclasses.dataclass(frozen=True)
class Rate:
    """A share of a whole with its 95 % Wilson score interval.

    Attributes:
        count, total: `count` of `total` cases.
    """

    count: int
    total: int

    @property
    def value(self) -> float | None:
        """The share, in [0, 1]; None of nothing."""
        return self.count / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound, in [0, 1]; all of it where there is no case."""
        return wilson(self.count, self.total)

    def as_dict(self) -> dict[str, float | int | None]:
        """Plain JSON values."""
        low, high = self.interval
        return {"count": self.count, "total": self.total, "value": self.value, "low": low, "high": high}


def wilson(count: int, total: int, z: float = Z95) -> tuple[float, float]:
    """The score interval of a binomial proportion.

    Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference".

    Args:
        count: successes, in [0, total].
        total: trials.
        z: quantile of the normal distribution; its default gives 95 %.

    Returns:
        Lower and upper bound, in [0, 1].
    """
    if not total:
        return 0.0, 1.0
    share, spread = count / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    # At the ends the bound is the share itself; rounding must not put it beside.
    low = 0.0 if count == 0 else max(0.0, middle - half)
    high = 1.0 if count == total else min(1.0, middle + half)
    return low, high


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
