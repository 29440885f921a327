"""The gate promotes what is better where it was trained and not worse elsewhere, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from irevla_trainer.jobs.gate import Verdict, decide, too_few
from irevla_trainer.jobs.settings import GateSettings

SETTINGS = GateSettings(episodes=50, looks=3, confidence=0.95, margin=0.05)


def outcomes(**tasks: tuple[int, int]) -> dict[str, tuple[list[bool], list[bool]]]:
    """Task to so many successes of 50 before and after; whoever fails, fails on the first seeds."""
    return {
        task: ([False] * (50 - before) + [True] * before, [False] * (50 - after) + [True] * after)
        for task, (before, after) in tasks.items()
    }


def at(look: int, trained: str = "rl", **tasks: tuple[int, int]) -> Verdict | None:
    return decide(outcomes(**tasks), [trained], SETTINGS, look)


def test_a_clear_rise_is_promoted_at_the_first_look():
    verdict = at(1, rl=(20, 45), one=(48, 48), other=(50, 50))
    assert verdict is not None and verdict.promoted
    others = "others 0.98 -> 0.98 (100 episodes each)"
    assert verdict.reason == f"better: trained tasks 0.40 -> 0.90 (50 episodes each), {others}"
    assert verdict.trained.least > 0.2
    assert verdict.to_json()["outcomes"]["rl"]["after"].count(True) == 45


@pytest.mark.parametrize("look", [1, 2, 3])
def test_what_is_open_needs_more_episodes_and_is_not_promoted_at_the_end(look: int):
    verdict = at(look, rl=(20, 22), expert=(48, 48))
    if look < 3:
        assert verdict is None
    else:
        assert verdict is not None and not verdict.promoted
        assert verdict.reason.startswith("not shown to be better on the trained tasks: trained tasks 0.40 -> 0.44")


def test_few_episodes_without_a_difference_do_not_show_that_there_is_none():
    assert at(1, rl=(20, 45), expert=(48, 48)) is None


@pytest.mark.parametrize(
    ("episodes", "looks", "others", "vain"), [(20, 3, 1, True), (20, 3, 2, False), (50, 1, 1, True), (50, 3, 1, False)]
)
def test_a_gate_through_which_nothing_comes_is_told(episodes: int, looks: int, others: int, vain: bool):
    settings = GateSettings(episodes=episodes, looks=looks)
    most = episodes * looks
    best = {"rl": ([False] * most, [True] * most)} | {f"o{n}": ([True] * most,) * 2 for n in range(others)}
    verdict = decide(best, ["rl"], settings, looks)
    assert verdict is not None and verdict.promoted is not vain
    assert bool(too_few(settings, others)) is vain


def test_what_became_worse_elsewhere_is_not_promoted():
    verdict = at(3, rl=(20, 45), expert=(48, 44))
    assert verdict is not None and not verdict.promoted
    assert verdict.reason.startswith("not shown to be at most 0.05 worse on the other tasks")


def test_a_trained_task_that_is_lost_is_no_price_for_others_that_rise():
    found = outcomes(one=(10, 48), two=(20, 48), lost=(48, 10))
    verdict = decide(found, ["one", "two", "lost"], SETTINGS, 1)
    assert verdict is not None and not verdict.promoted and verdict.trained.least > 0.0
    assert verdict.reason.startswith("worse by more than 0.05 on lost 0.96 -> 0.20 (50 episodes each)")


def test_one_task_that_falls_is_seen_among_many():
    steady = {f"task{number}": (50, 50) for number in range(10)}
    verdict = at(3, rl=(20, 45), fallen=(50, 35), **steady)
    assert verdict is not None and not verdict.promoted
    assert verdict.others is not None and verdict.others.least > -SETTINGS.margin
    assert verdict.reason.startswith("worse by more than 0.05 on fallen 1.00 -> 0.70 (50 episodes each): trained")


def test_no_time_is_lost_on_what_fell():
    assert at(1, rl=(30, 25), expert=(48, 48)) is not None
    assert at(1, rl=(20, 45), expert=(48, 40)) is not None


def test_tasks_that_nobody_trained_for_are_not_needed():
    verdict = at(1, rl=(20, 45))
    assert verdict is not None and verdict.promoted and verdict.others is None


@pytest.mark.parametrize(("rise", "low", "high"), [(0.0, 0.0, 0.06), (0.3, 0.9, 1.0)])
def test_policies_are_promoted_as_often_as_the_confidence_says(rise: float, low: float, high: float):
    """All looks of many jobs, with episodes of which half go the same way whatever the policy."""
    rng = np.random.default_rng(0)
    promoted = 0
    for _ in range(300):
        found: tuple[list[bool], list[bool]] = ([], [])
        for look in range(1, SETTINGS.looks + 1):
            same, outcome = rng.random(50) < 0.5, rng.random(50) < 0.5
            found[0].extend(np.where(same, outcome, rng.random(50) < 0.4))
            found[1].extend(np.where(same, outcome, rng.random(50) < 0.4 + 2 * rise))
            verdict = decide({"rl": found}, ["rl"], SETTINGS, look)
            if verdict is not None:
                break
        assert verdict is not None
        promoted += verdict.promoted
    assert low <= promoted / 300 <= high
