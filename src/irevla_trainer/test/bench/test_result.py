"""Benchmark results: targets, JSON, and the latency figures from known answers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from irevla_trainer.bench.latency import summarise
from irevla_trainer.bench.result import BenchResult, Target, measure
from irevla_trainer.cli import main
from irevla_trainer.ros.rig import Answers

PERIOD = 50_000_000


def test_targets_hold_at_their_bound_and_not_beyond() -> None:
    assert Target("<=", 3.0).holds(3.0) and not Target("<=", 3.0).holds(3.001)
    assert Target(">=", 0.8).holds(0.8) and not Target(">=", 0.8).holds(0.799)
    assert not Target("<=", 3.0).holds(math.nan) and not Target(">=", 3.0).holds(math.nan)


def test_result_is_printed_and_written_in_its_documented_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missed = BenchResult("x", {"a_ms": 4.0, "b_ms": 1.0}, {"a_ms": Target("<=", 3.0), "b_ms": Target("<=", 3.0)})
    measure("x", lambda: missed, tmp_path / "deep" / "x.json")
    written = json.loads((tmp_path / "deep" / "x.json").read_text())
    assert set(written) == {"name", "command", "machine", "seconds", "figures", "targets", "holds", "details"}
    assert written["figures"] == {"a_ms": 4.0, "b_ms": 1.0}
    assert written["targets"]["a_ms"] == {"sense": "<=", "value": 3.0}
    assert written["holds"] is False and missed.missed == ["a_ms"]
    lines = capsys.readouterr().out.splitlines()
    assert "MISSED" in lines[1] and "holds" in lines[2]


def _answers(frames: int, latency: float, forward: float, skipped: tuple[int, ...] = ()) -> Answers:
    answers = Answers()
    for frame in range(frames):
        if frame in skipped:
            continue
        answers.latency[frame * PERIOD] = latency
        answers.forward[frame * PERIOD] = forward
        answers.arrivals.append(frame * PERIOD * 1e-9 + latency)
    return answers


def test_overhead_is_latency_without_forward_pass_and_floor() -> None:
    result = summarise(_answers(100, 0.012, 0.008), np.full(50, 0.0015), 100, 0.05)
    assert result.figures["overhead_p50_ms"] == pytest.approx(2.5)
    assert result.figures["overhead_p99_ms"] == pytest.approx(2.5)
    assert result.figures["missed_ticks"] == 0
    assert result.holds


def test_an_unanswered_frame_is_a_missed_tick() -> None:
    result = summarise(_answers(100, 0.01, 0.008, skipped=(40, 70, 71)), np.full(50, 0.0015), 100, 0.05)
    assert result.figures["missed_ticks"] == 2
    assert result.figures["longest_interval_ms"] == pytest.approx(150.0)
    assert result.details["answered"] == 97
    assert result.missed == ["missed_ticks"]


def test_a_policy_that_falls_silent_misses_a_tick() -> None:
    result = summarise(_answers(40, 0.01, 0.008), np.full(50, 0.0015), 100, 0.05)
    assert result.figures["longest_interval_ms"] == pytest.approx(3000.0)
    assert result.missed == ["missed_ticks"]


def test_a_time_too_short_for_a_swap_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "swap", "--seconds", "8"]) == 2
    assert "--seconds: expected at least 12" in capsys.readouterr().err


def test_foreign_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "latency", "--no-large"]) == 2
    assert "benchmark 'latency' has no option --large" in capsys.readouterr().err
