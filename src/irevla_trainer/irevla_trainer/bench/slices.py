"""Commands of `irevla` in a slice of time, several at once where they do not need each other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from irevla_policy.durable import write_text
from irevla_policy.errors import RunError

_POLL = 0.1
"""s between two looks at what runs."""

_NOTE = 60.0
"""s between two notes of the time that was spent: a benchmark that is killed forgets no more."""

_TIME_TO_STOP = 120.0
"""s that interrupted commands get to finish their iteration and save."""

_LAST_WORDS = 2.0
"""s that the last lines of a command may take: what it has started and left behind may hold its output open."""


class Slice:
    """Runs commands until the slice is over; remembers what they took in all slices.

    Attributes:
        seconds: Name of a command to its share of the wall time in s. What runs at the same time shares it evenly, so
            that the sum is the wall time of all slices.
    """

    def __init__(self, out: Path, minutes: float, parallel: int = 1) -> None:
        """Begin a slice.

        Args:
            out: Folder of the runs, where the time is written down.
            minutes: Length of the slice.
            parallel: Commands at a time. With more than one, each has its part of the cores, also where it is alone
                for a while: another number of threads adds up in another order. The lines that a command prints then
                begin with its name.
        """
        self._file = out / "seconds.json"
        self._minutes, self._parallel = minutes, parallel
        self._printers: dict[str, threading.Thread] = {}
        self._counted = time.monotonic()
        self._end = self._counted + 60.0 * minutes
        self.seconds: dict[str, float] = json.loads(self._file.read_text()) if self._file.is_file() else {}

    def run(self, commands: Mapping[str, Sequence[str]]) -> None:
        """Run commands, or what is left of them; those named first begin first.

        Args:
            commands: Name to the words after `irevla`.

        Raises:
            RunError: The slice is over, or a command failed. None is left running.
        """
        waiting = list(commands)
        running: dict[str, subprocess.Popen[str]] = {}
        self._counted = time.monotonic()
        try:
            while waiting or running:
                if time.monotonic() > self._end:
                    names = " and ".join(map(repr, running or waiting[:1]))
                    raise RunError(
                        f"the slice of {self._minutes:g} minutes is over in {names}; the same command goes on"
                    )
                while waiting and len(running) < self._parallel:
                    name = waiting.pop(0)
                    running[name] = self._start(name, commands[name])
                self._watch(running)
                for name in [name for name, process in running.items() if process.returncode is not None]:
                    code = running.pop(name).returncode
                    self._hear_out(name)
                    if code != 0:
                        raise RunError(f"{name!r} failed with exit code {code}: irevla {' '.join(commands[name])}")
        finally:
            try:
                self._stop(running)
            finally:
                self._count(running)

    def _start(self, name: str, words: Sequence[str]) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "irevla_trainer.cli", *words]
        if self._parallel == 1:
            return subprocess.Popen(command, text=True)
        threads = str(max(len(os.sched_getaffinity(0)) // self._parallel, 1))
        environment = {"OMP_NUM_THREADS": threads, **os.environ, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        self._printers[name] = threading.Thread(target=_print_lines, args=(name, process.stdout), daemon=True)
        self._printers[name].start()
        return process

    def _watch(self, running: Mapping[str, subprocess.Popen[str]]) -> None:
        """Let commands run until one of them ends or a moment is over."""
        started = time.monotonic()
        try:
            while all(process.poll() is None for process in running.values()):
                time.sleep(_POLL)
                if time.monotonic() > min(self._end, started + _NOTE):
                    break
        finally:
            self._count(running)

    def _stop(self, running: Mapping[str, subprocess.Popen[str]]) -> None:
        """End what runs, as Ctrl-C does."""
        started = time.monotonic()
        for process in running.values():
            process.send_signal(signal.SIGINT)
        for process in running.values():
            try:
                process.wait(max(started + _TIME_TO_STOP - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for name in running:
            self._hear_out(name)

    def _hear_out(self, name: str) -> None:
        """Let the last lines of a command that has ended be printed."""
        if name in self._printers:
            self._printers.pop(name).join(_LAST_WORDS)

    def _count(self, running: Collection[str]) -> None:
        """Share the time since the last count among what runs, and write it down."""
        now = time.monotonic()
        for name in running:
            self.seconds[name] = self.seconds.get(name, 0.0) + (now - self._counted) / len(running)
        self._counted = now
        write_text(self._file, json.dumps(self.seconds, indent=2) + "\n")


def _print_lines(name: str, lines: TextIO) -> None:
    for line in lines:
        # A command waits when nobody reads: reading goes on when the terminal is gone, or has no such letters.
        with suppress(OSError, ValueError):
            print(f"{name}: {line}", end="", flush=True)
