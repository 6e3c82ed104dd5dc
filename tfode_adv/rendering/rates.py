"""Shares with their confidence intervals."""

import dataclasses
import math
import statistics

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
