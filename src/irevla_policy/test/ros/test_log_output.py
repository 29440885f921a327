"""What a node says, with and without somebody who reads it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

NODE = str(Path(__file__).parent / "talking_node.py")


@pytest.fixture
def talk(tmp_path):
    """Starts the node; returns it and how often it has said something."""
    counted = tmp_path / "count"
    processes = []

    def start(**output: int) -> tuple[subprocess.Popen[str], Callable[[], int]]:
        process = subprocess.Popen([sys.executable, NODE, str(counted)], text=True, **output)
        processes.append(process)
        return process, lambda: int(counted.read_text() or 0) if counted.exists() else 0

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_nobody_reads(talk):
    process, count = talk(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    # Both pipes, this one and the node's own, have room for 64 KiB.
    assert until(lambda: count() >= 300), f"stopped after {count()} lines"
    process.send_signal(signal.SIGINT)
    assert process.wait(5.0) == 0
    read = process.stdout.read()
    assert "line 1: " in read and "line 300: " not in read


def test_somebody_reads(talk, tmp_path):
    with (tmp_path / "log").open("w") as log:
        process, count = talk(stdout=subprocess.DEVNULL, stderr=log)
        assert until(lambda: count() >= 300)
        process.send_signal(signal.SIGINT)
        assert process.wait(5.0) == 0
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[-1].endswith(f"goodbye after {count()}")
    assert len(lines) == count() + 1
    assert all(line.startswith("[INFO]") and "[talking]: " in line for line in lines)


def test_the_reader_goes_away(talk):
    process, count = talk(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr.readline()
    process.stderr.close()
    process.stderr = None
    before = count()
    assert until(lambda: count() >= before + 100), f"stopped after {count()} lines"
    process.send_signal(signal.SIGINT)
    assert process.wait(5.0) == 0


def test_messages_can_go_to_standard_output(talk, monkeypatch):
    monkeypatch.setenv("RCUTILS_LOGGING_USE_STDOUT", "1")
    process, count = talk(stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert until(lambda: count() >= 10)
    assert "line 1: " in process.stdout.readline()


def test_colours_on_a_terminal_only(talk):
    here, there = os.openpty()
    talk(stdout=subprocess.DEVNULL, stderr=there)
    assert os.read(here, 5) == b"\x1b[0m["
    os.close(here)
    os.close(there)
