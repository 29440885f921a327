"""Commands of `irevla` in a slice of time, several at once where they do not need each other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from irevla_policy.durable import write_text
from irevla_policy.errors import RunError

_POLL = 0.1
"""s between two looks at what runs."""

_NOTE = 60.0
"""s between two notes of the time that was spent: a benchmark that is killed forgets no more."""

_TIME_TO_STOP = 120.0
"""s that interrupted commands get to finish their iteration and save."""


class Slice:
    """Runs commands until the slice is over; remembers what they took in all slices.

    Attributes:
        seconds: Name of a command to its wall time in s. What runs at the same time shares it evenly, so that the sum
            is the wall time of all slices.
    """

    def __init__(self, out: Path, minutes: float, parallel: int = 1) -> None:
        """Begin a slice.

        Args:
            out: Folder of the runs, where the time is written down.
            minutes: Length of the slice.
            parallel: Commands at a time. Each has its part of the cores: on a small model two with one thread each do
                about twice as much as one with two, whose threads mostly wait for each other.
        """
        self._file = out / "seconds.json"
        self._minutes, self._parallel = minutes, parallel
        self._end = time.monotonic() + 60.0 * minutes
        self.seconds: dict[str, float] = json.loads(self._file.read_text()) if self._file.is_file() else {}

    def run(self, commands: Mapping[str, Sequence[str]]) -> None:
        """Run commands, or what is left of them; those named first begin first.

        Args:
            commands: Name to the words after `irevla`.

        Raises:
            RunError: The slice is over, or a command failed. None is left running.
        """
        waiting = list(commands)
        running: dict[str, subprocess.Popen[bytes]] = {}
        at_once = min(self._parallel, len(waiting))
        environment = dict(os.environ)
        if at_once > 1:
            environment.setdefault("OMP_NUM_THREADS", str(max(len(os.sched_getaffinity(0)) // at_once, 1)))
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    words = commands[waiting[0]]
                    process = subprocess.Popen([sys.executable, "-m", "irevla_trainer.cli", *words], env=environment)
                    running[waiting.pop(0)] = process
                self._watch(running)
                for name in [name for name, process in running.items() if process.returncode is not None]:
                    code = running.pop(name).returncode
                    if code != 0:
                        raise RunError(f"{name!r} failed with exit code {code}: irevla {' '.join(commands[name])}")
                if running and time.monotonic() > self._end:
                    names = " and ".join(map(repr, running))
                    raise RunError(
                        f"the slice of {self._minutes:g} minutes is over in {names}; the same command goes on"
                    )
        finally:
            self._stop(running)
            self._write()

    def _watch(self, running: Mapping[str, subprocess.Popen[bytes]]) -> None:
        """Let commands run until one of them ends or a moment is over, and count the time."""
        started = time.monotonic()
        while all(process.poll() is None for process in running.values()):
            time.sleep(_POLL)
            if time.monotonic() > min(self._end, started + _NOTE):
                break
        self._count(running, time.monotonic() - started)
        self._write()

    def _stop(self, running: Mapping[str, subprocess.Popen[bytes]]) -> None:
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
        self._count(running, time.monotonic() - started)

    def _count(self, running: Collection[str], seconds: float) -> None:
        for name in running:
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds / len(running)

    def _write(self) -> None:
        write_text(self._file, json.dumps(self.seconds, indent=2) + "\n")
