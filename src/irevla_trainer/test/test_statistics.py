"""Intervals against scipy and against their own coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from irevla_trainer.statistics import Rate, paired_difference


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
