"""Progress where there is no terminal: a line for every tenth, few of them, and always the last."""

from __future__ import annotations

import time

import pytest

from irevla_trainer.loop.display import Display


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when they are told to."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def display(tmp_path):
    with Display(tmp_path) as shown:
        yield shown


def test_quick_work_is_one_line(display, clock, capsys):
    with display.episodes("test") as show:
        for done in range(1, 9):
            clock[0] += 0.5
            show(done, 8)
    assert capsys.readouterr().err == "test: 8/8 episodes\n"


def test_long_work_is_a_line_for_every_tenth_with_the_time_left(display, clock, capsys):
    with display.episodes("test") as show:
        for done in range(201):
            clock[0] += 1.0
            show(done, 200)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("test: 20/200 episodes, ")
    assert lines[4] == "test: 100/200 episodes, 101 s left"
    assert lines[-1] == "test: 200/200 episodes"


def test_work_that_ends_early_says_where(display, clock, capsys):
    with display.updates("stage 0") as show:
        for step in range(1, 4):
            show(step, 1000, {"loss": 0.5 / step})
            clock[0] += 1.0
    assert capsys.readouterr().err == "stage 0: 3/1000 updates, loss 0.1667, 997 s left\n"


def test_scalars_are_there_for_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Display(tmp_path) as display:
        display.evaluation("00-stage0", {"rl": {"success": 0.25, "low": 0.1, "high": 0.4}}, 0)
        display.evaluation("01-stage1", {"rl": {"success": 0.75, "low": 0.6, "high": 0.9}}, 2400)
        display.evaluation("01-stage1", {"rl": {"success": 0.75, "low": 0.6, "high": 0.9}}, None)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("validation/rl")] == [(0, 0.25), (2400, 0.75)]
