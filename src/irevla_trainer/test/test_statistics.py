"""Intervals against scipy and against their own coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import binomtest, norm

from irevla_trainer.statistics import Rate, least_difference, paired_difference


@pytest.mark.parametrize(("successes", "episodes"), [(0, 10), (1, 10), (25, 50), (49, 50), (50, 50), (83, 100)])
def test_wilson_interval_equals_scipys(successes: int, episodes: int) -> None:
    reference = binomtest(successes, episodes).proportion_ci(0.95, method="wilson")
    assert Rate(successes, episodes).interval() == pytest.approx((reference.low, reference.high), abs=1e-12)


@pytest.mark.parametrize(("successes", "episodes"), [(1, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(successes: int, episodes: int) -> None:
    with pytest.raises(ValueError, match="0 <= successes <= episodes"):
        Rate(successes, episodes)


def test_paired_difference_uses_the_pairing() -> None:
    before = [False, True] * 50
    after = [True, True] * 50
    mean, low, high = paired_difference(before, after)
    assert mean == 0.5
    assert 0.38 < low < 0.42 and 0.58 < high < 0.62
    assert paired_difference(before, before) == (0.0, 0.0, 0.0)


def test_paired_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        before = rng.random(100) < 0.5
        after = np.where(rng.random(100) < 0.2, True, before)
        _, low, high = paired_difference(list(before), list(after), resamples=500, seed=trial)
        covered += low <= 0.1 <= high
    assert covered >= 180


def test_unpaired_episodes_are_refused() -> None:
    with pytest.raises(ValueError, match="found 2 and 3"):
        paired_difference([True, False], [True, False, True])


def pairs(count: int, worse: int, better: int) -> tuple[list[bool], list[bool]]:
    """Success before and after of so many pairs; the others succeed in both."""
    before = [True] * worse + [False] * better + [True] * (count - worse - better)
    after = [False] * worse + [True] * better + [True] * (count - worse - better)
    return before, after


def score_by_likelihood(count: int, worse: int, better: int, difference: float) -> float:
    """The score statistic, its nuisance parameter found by maximising the multinomial likelihood."""

    def log(value: float) -> float:
        return float(np.log(max(value, 1e-300)))

    def unlikely(share: float) -> float:
        same = 1 - 2 * share - difference
        return -(worse * log(share) + better * log(share + difference) + (count - worse - better) * log(same))

    low, high = max(0.0, -difference), (1 - difference) / 2
    share = minimize_scalar(unlikely, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    return (better - worse - count * difference) / np.sqrt(count * (2 * share + difference * (1 - difference)))


@pytest.mark.parametrize(("count", "worse", "better"), [(50, 3, 12), (50, 5, 4), (100, 1, 30), (20, 6, 2), (40, 0, 7)])
@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_the_paired_bound_inverts_the_score_test(count: int, worse: int, better: int, confidence: float) -> None:
    wanted = norm.ppf(confidence)
    reference = brentq(
        lambda difference: score_by_likelihood(count, worse, better, difference) - wanted,
        -0.95,
        (better - worse) / count - 1e-9,
    )
    assert least_difference(*pairs(count, worse, better), confidence) == pytest.approx(reference, abs=1e-4)


def test_pairs_that_never_differ_show_little() -> None:
    z = norm.ppf(0.95)
    assert least_difference(*pairs(50, 0, 0)) == pytest.approx(-(z**2) / (50 + z**2), abs=1e-9)
    assert least_difference(*pairs(1, 1, 0)) == pytest.approx(-1.0, abs=1e-9)


def test_the_paired_bound_is_wrong_as_seldom_as_it_says() -> None:
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(1000):
        before = rng.random(60) < 0.5
        after = np.where(rng.random(60) < 0.3, rng.random(60) < 0.5, before)
        wrong += least_difference(list(before), list(after)) > 0.0
    assert 0.02 < wrong / 1000 < 0.08
