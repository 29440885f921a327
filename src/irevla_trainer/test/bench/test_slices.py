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
# As `irevla` does: a shell lets what it starts in the background ignore SIGINT.
HEEDS = "import signal, time; signal.signal(signal.SIGINT, signal.default_int_handler); "


@pytest.fixture
def python(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen]:
    """Let the words of a command be Python code and its arguments; returns what was started."""
    started = []

    def popen(words: list[str], env: dict[str, str]) -> subprocess.Popen:
        started.append(POPEN([sys.executable, "-c", *words[3:]], env=env))
        return started[-1]

    monkeypatch.setattr(slices.subprocess, "Popen", popen)
    return started


def test_a_slice_that_is_over_goes_on_later(tmp_path: Path, python: list):
    with pytest.raises(RunError, match=r"slice of 0\.05 minutes is over in 'sft'; the same command goes on"):
        slices.Slice(tmp_path, 0.05).run({"sft": [HEEDS + "time.sleep(60)"], "frozen": ["raise SystemExit(5)"]})
    assert [process.returncode for process in python] == [-signal.SIGINT]
    again = slices.Slice(tmp_path, 1.0)
    spent = again.seconds["sft"]
    again.run({"sft": ["pass"]})
    assert again.seconds["sft"] > spent > 3.0


def test_commands_run_together_and_share_the_time(tmp_path: Path, python: list, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    # Ends only when the other one has begun, too; the third waits for a place.
    meets = (
        "import os, sys, time, pathlib as p; here = p.Path(sys.argv[1]); "
        "(here / sys.argv[2]).write_text(os.environ['OMP_NUM_THREADS'])\n"
        "while not (here / sys.argv[3]).exists(): time.sleep(0.01)\n"
        "assert sys.argv[2] == 'c' or not (here / 'c').exists()"
    )
    names = {"a": "b", "b": "a", "c": "a"}
    started = time.monotonic()
    slice_ = slices.Slice(tmp_path, 1.0, parallel=2)
    slice_.run({name: [meets, str(tmp_path), name, other] for name, other in names.items()})
    took = time.monotonic() - started
    assert [(tmp_path / name).read_text() for name in names] == ["4", "4", "4"]
    assert sum(slice_.seconds.values()) == pytest.approx(took, rel=0.2)
    assert json.loads((tmp_path / "seconds.json").read_text()) == slice_.seconds


def test_a_command_alone_has_all_cores(tmp_path: Path, python: list, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    alone = "import os; assert 'OMP_NUM_THREADS' not in os.environ"
    slices.Slice(tmp_path, 1.0, parallel=2).run({"a": [alone]})
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    chosen = "import os; assert os.environ['OMP_NUM_THREADS'] == '3'"
    slices.Slice(tmp_path, 1.0, parallel=2).run({"a": [chosen], "b": [chosen]})


def test_a_command_that_fails_is_named_and_ends_the_others(tmp_path: Path, python: list):
    fails = "import time; time.sleep(1.0); raise SystemExit(3)"
    with pytest.raises(RunError, match="'frozen' failed with exit code 3: irevla import time"):
        slices.Slice(tmp_path, 1.0, parallel=2).run({"sft": [HEEDS + "time.sleep(60)"], "frozen": [fails]})
    assert [process.returncode for process in python] == [-signal.SIGINT, 3]


def test_time_is_noted_while_a_command_runs(tmp_path: Path, python: list, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(slices, "_NOTE", 0.2)
    # What a benchmark that is killed has written down by then.
    reads = (
        "import sys, time, pathlib as p; file = p.Path(sys.argv[1]); end = time.monotonic() + 20\n"
        "while not file.exists() and time.monotonic() < end: time.sleep(0.01)\n"
        "assert file.exists()"
    )
    slices.Slice(tmp_path, 1.0).run({"a": [reads, str(tmp_path / "seconds.json")]})


def test_ctrl_c_ends_what_runs(tmp_path: Path, python: list, monkeypatch: pytest.MonkeyPatch):
    def interrupt(self: slices.Slice, running: dict) -> None:
        time.sleep(1.0)  # until the commands have their handlers
        raise KeyboardInterrupt

    monkeypatch.setattr(slices.Slice, "_watch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        slices.Slice(tmp_path, 1.0, parallel=2).run({name: [HEEDS + "time.sleep(60)"] for name in "ab"})
    assert [process.returncode for process in python] == [-signal.SIGINT] * 2
