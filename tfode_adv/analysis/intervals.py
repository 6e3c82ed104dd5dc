"""Confidence intervals of a share, and of the difference of two attacks on the same images."""

import math

Z95 = 1.959963984540054


def wilson(successes: int, trials: int, z: float = Z95) -> tuple[float, float]:
    """The Wilson score interval of a share (Wilson 1927), 95 % by default.

    Returns:
        (low, high) in [0, 1]; (0, 1) where there are no trials.
    """
    if trials <= 0:
        return 0.0, 1.0
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # At the ends the bound is the share itself; rounding must not put it beside.
    low = 0.0 if successes == 0 else (centre - spread) / scale
    high = 1.0 if successes == trials else (centre + spread) / scale
    return low, high


def sign_test(only_first: int, only_second: int) -> float:
    """One-sided exact sign (McNemar) test: is `only_first` larger than chance would make it?

    Args:
        only_first: images on which only the first of two paired attacks succeeded.
        only_second: images on which only the second did.

    Returns:
        P(at least `only_first` of `only_first + only_second` fair coins fall heads), in (0, 1].
    """
    coins = only_first + only_second
    return sum(math.comb(coins, heads) for heads in range(only_first, coins + 1)) / 2**coins
