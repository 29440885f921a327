"""The real-time benchmark: its figures follow from what was heard, and a short run of it works."""

from __future__ import annotations

import numpy as np
import pytest

from irevla_msgs.msg import PolicyStatus
from irevla_policy.errors import RunError
from irevla_policy.robot.profile import load_profile
from irevla_trainer.bench.robot import Heard, run, summarise

PROFILE = load_profile("panda")


def test_figures_are_those_of_what_was_heard() -> None:
    ticks = np.full(1000, 0.02)
    ticks[::50] = 0.07  # two in a hundred
    heard = Heard(
        answers=[0.02] * 97 + [0.2] * 3,
        # 98 in time, one that is missing, and a way home that is no gap.
        acted=[[0.1 * number for number in range(60)] + [6.1], [20.0 + 0.1 * number for number in range(40)], []],
        sent=np.cumsum(ticks).tolist(),
        behind=[-0.004] * 970 + [0.012] * 30,
        episodes={"a", "b"},
        status=PolicyStatus(actions_total=148, actions_refused=5),
        missed_ticks=7,
    )
    found = summarise(heard, (50, 3, 4), [{"updates": 10.0}, {"updates": 60.0}], 10.0, PROFILE)
    assert not found.holds
    expected = {
        "episodes": 2.0, "actions": 100.0, "refused_actions": 2.0, "refused_actions_share": 0.02,
        "late_actions_share": 0.01, "worst_gap_ms": 200.0,
        "answer_p50_ms": 20.0, "answer_p99_ms": 200.0, "answer_worst_ms": 200.0,
        "guard_interval_p50_ms": 20.0, "guard_interval_p99_ms": 70.0, "guard_missed_ticks": 3.0,
        "command_behind_p50_ms": -4.0, "command_behind_p99_ms": 12.0, "command_behind_worst_ms": 12.0,
        "updates": 60.0, "iterations": 2.0,
    }  # fmt: skip
    assert {name: found.figures[name] for name in expected} == pytest.approx(expected)


def test_silence_is_no_result() -> None:
    with pytest.raises(RunError, match="0 actions and 0 commands came in 10 s"):
        summarise(Heard(), (0, 0, 0), [], 10.0, PROFILE)


@pytest.mark.slow
def test_a_short_run() -> None:
    found = run(seconds=40.0).figures
    assert found["actions"] > 100 and found["episodes"] >= 1 and found["updates"] > 0
    assert found["guard_interval_p50_ms"] == pytest.approx(20.0, abs=2.0)
