"""Intervals for success rates: Wilson for one rate, for the difference of two paired bootstrap or paired score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True)
class Rate:
    """A success rate with its 95 % Wilson interval."""

    successes: int
    episodes: int

    def __post_init__(self) -> None:
        if not 0 <= self.successes <= self.episodes or self.episodes == 0:
            raise ValueError(
                f"expected 0 <= successes <= episodes and episodes > 0, found {self.successes} of {self.episodes}"
            )

    @property
    def value(self) -> float:
        """Successes over episodes, in [0, 1]."""
        return self.successes / self.episodes

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson score interval (Wilson 1927).

        Args:
            confidence: Coverage, in (0, 1).

        Returns:
            Lower and upper end, in [0, 1].
        """
        z = NormalDist().inv_cdf(0.5 + confidence / 2)
        n, p = self.episodes, self.value
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)

    def to_json(self) -> dict[str, float | int]:
        """Rate, interval and counts as plain values."""
        low, high = self.interval()
        return {
            "success": self.value,
            "low": round(low, 4),
            "high": round(high, 4),
            "successes": self.successes,
            "episodes": self.episodes,
        }

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{self.value:.2f} [{low:.2f}, {high:.2f}] ({self.successes}/{self.episodes})"


def paired_difference(
    before: Sequence[bool], after: Sequence[bool], confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Difference of two success rates on the same seeds, with a percentile bootstrap interval.

    The interval is about these two policies: what another training seed would have given is not in it.

    Args:
        before: Success of every episode of the first policy, in order of the seeds.
        after: Success of the second policy on the same seeds.
        confidence: Coverage, in (0, 1).
        resamples: Bootstrap resamples of the pairs.
        seed: Seed of the resampling.

    Returns:
        Mean difference (after - before), lower end, upper end.

    Raises:
        ValueError: The two do not pair up.
    """
    count, worse, better = _pairs(before, after)
    # A pair differs by -1, 0 or 1: a resample of the pairs is a draw of how many there are of each.
    drawn = np.random.default_rng(seed).multinomial(
        count, [worse / count, better / count, (count - worse - better) / count], size=resamples
    )
    low, high = np.quantile((drawn[:, 1] - drawn[:, 0]) / count, [(1 - confidence) / 2, (1 + confidence) / 2])
    return (better - worse) / count, float(low), float(high)


def least_difference(before: Sequence[bool], after: Sequence[bool], confidence: float = 0.95) -> float:
    """What the difference of two success rates on the same seeds is at least, by the paired score test (Tango 1998).

    Other than a bootstrap of few episodes it does not call two policies equal that happened to succeed on the same
    ones: without any pair that differs, n of them show no more than a difference above -z^2 / (n + z^2).

    Args:
        before: Success of every episode of the first policy, in order of the seeds.
        after: Success of the second policy on the same seeds.
        confidence: Of the one-sided bound, in (0, 1).

    Returns:
        Lower bound of (after - before), in [-1, 1].

    Raises:
        ValueError: The two do not pair up.
    """
    count, worse, better = _pairs(before, after)
    z = NormalDist().inv_cdf(confidence)
    low, high = -1.0, (better - worse) / count
    # The statistic falls with the difference that is supposed, from infinity to 0 at the observed one.
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _score(count, worse, better, middle) > z else (low, middle)
    return low


def _score(count: int, worse: int, better: int, difference: float) -> float:
    """Score statistic of a supposed difference; the share of worse pairs is the likeliest one given it."""
    linear = (2 * count + worse - better) * difference - worse - better
    constant = -worse * difference * (1 - difference)
    share = (math.sqrt(max(linear**2 - 8 * count * constant, 0.0)) - linear) / (4 * count)
    variance = count * (2 * share + difference * (1 - difference))
    if variance <= 0:
        return math.inf
    return (better - worse - count * difference) / math.sqrt(variance)


def _pairs(before: Sequence[bool], after: Sequence[bool]) -> tuple[int, int, int]:
    """Pairs, those with success before only, and those with success after only."""
    if len(before) != len(after) or not before:
        raise ValueError(f"expected as many episodes before as after, found {len(before)} and {len(after)}")
    worse = sum(bool(one) and not other for one, other in zip(before, after, strict=True))
    better = sum(bool(other) and not one for one, other in zip(before, after, strict=True))
    return len(before), worse, better
