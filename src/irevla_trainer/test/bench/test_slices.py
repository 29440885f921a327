"""Slices of time: commands one after the other or together, what they took, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from irevla_policy.errors import RunError
from irevla_trainer.bench import slices

POPEN = subprocess.Popen
WAITS = """
import pathlib, signal, sys, time
# As `irevla` does: a shell lets what it starts in the background ignore SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)
pathlib.Path(sys.argv[1]).write_text("up")
time.sleep(60)
"""
"""Says that it is there, and waits to be interrupted."""

AFTER = """
import pathlib, sys, time
while not all(pathlib.Path(name).exists() for name in sys.argv[1:]):
    time.sleep(0.01)
"""
"""Ends once some files are there."""


@pytest.fixture
def python(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen]:
    """Let the words of a command be Python code and its arguments; returns what was started."""
    started = []

    def popen(words: list[str], **options: object) -> subprocess.Popen:
        started.append(POPEN([sys.executable, "-c", *words[3:]], **options))
        return started[-1]

    monkeypatch.setattr(slices.subprocess, "Popen", popen)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return started


def noted(folder: Path) -> dict[str, float]:
    return json.loads((folder / "seconds.json").read_text())


def test_a_slice_that_is_over_goes_on_later(tmp_path: Path, python: list):
    commands = {"sft": [WAITS, str(tmp_path / "up")], "frozen": ["raise SystemExit(5)"]}
    with pytest.raises(RunError, match=r"slice of 0\.05 minutes is over in 'sft'; the same command goes on"):
        slices.Slice(tmp_path, 0.05).run(commands)
    assert [process.returncode for process in python] == [-signal.SIGINT]
    again = slices.Slice(tmp_path, 1.0)
    spent = again.seconds["sft"]
    again.run({"sft": ["pass"]})
    assert again.seconds["sft"] > spent > 3.0


def test_nothing_begins_after_the_end_of_a_slice(tmp_path: Path, python: list):
    over = slices.Slice(tmp_path, -1.0)
    with pytest.raises(RunError, match="is over in 'sft'"):
        over.run({"sft": ["pass"]})
    assert not python


def test_commands_run_together_and_share_the_time(tmp_path: Path, python: list, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    # The first two meet; the third begins when one of them has ended.
    meets = """
import os, pathlib, sys, time
mark, *others = map(pathlib.Path, sys.argv[1:])
mark.write_text(os.environ["OMP_NUM_THREADS"])
while not all(other.exists() for other in others):
    time.sleep(0.01)
time.sleep(1.5)  # together: whoever counted this twice would come to more than has passed
"""
    a, b, c = (tmp_path / name for name in "abc")
    started = time.monotonic()
    slice_ = slices.Slice(tmp_path, 1.0, parallel=2)
    slice_.run({"a": [meets, str(a), str(b)], "b": [meets, str(b), str(a)], "c": [meets, str(c), str(a), str(b)]})
    took = time.monotonic() - started
    assert [path.read_text() for path in (a, b, c)] == ["4", "4", "4"]
    assert took - 1.0 < sum(slice_.seconds.values()) <= took
    assert noted(tmp_path) == slice_.seconds


def test_no_more_run_together_than_asked_for(tmp_path: Path, python: list):
    up = tmp_path / "up"
    with pytest.raises(RunError, match="is over in 'a' and 'b'"):
        slices.Slice(tmp_path, 0.05, parallel=2).run({name: [WAITS, str(up)] for name in "abc"})
    assert len(python) == 2


def test_a_run_has_as_many_threads_alone_as_beside_others(tmp_path: Path, python: list, monkeypatch, capfd):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    says = "import os; print(os.environ.get('OMP_NUM_THREADS'))"
    slices.Slice(tmp_path, 1.0).run({"a": [says]})
    assert capfd.readouterr().out == "None\n"
    slices.Slice(tmp_path, 1.0, parallel=2).run({"a": [says]})
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    slices.Slice(tmp_path, 1.0, parallel=4).run({"b": [says]})
    assert capfd.readouterr().out == "a: 4\nb: 3\n"


def test_a_command_that_fails_is_named_and_ends_the_others(tmp_path: Path, python: list):
    up = str(tmp_path / "up")
    commands = {"sft": [WAITS, up], "frozen": [AFTER + "raise SystemExit(3)", up]}
    with pytest.raises(RunError, match="'frozen' failed with exit code 3: irevla"):
        slices.Slice(tmp_path, 1.0, parallel=2).run(commands)
    assert [process.returncode for process in python] == [-signal.SIGINT, 3]


def test_time_is_noted_while_a_command_runs(tmp_path: Path, python: list, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(slices, "_NOTE", 0.2)
    # What a benchmark that is killed has written down by then.
    slices.Slice(tmp_path, 1.0).run({"a": [AFTER, str(tmp_path / "seconds.json")]})


def test_ctrl_c_ends_what_runs_and_keeps_its_time(tmp_path: Path, python: list, monkeypatch: pytest.MonkeyPatch):
    marks = [tmp_path / name for name in ("a up", "b up")]
    sleep = time.sleep

    def interrupt(seconds: float) -> None:
        sleep(seconds)
        if all(mark.exists() for mark in marks):
            monkeypatch.setattr(slices.time, "sleep", sleep)
            raise KeyboardInterrupt

    started = time.monotonic()
    monkeypatch.setattr(slices.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        slices.Slice(tmp_path, 1.0, parallel=2).run({mark.name: [WAITS, str(mark)] for mark in marks})
    assert [process.returncode for process in python] == [-signal.SIGINT] * 2
    took = time.monotonic() - started
    assert took - 1.0 < sum(noted(tmp_path).values()) <= took
