"""Runs of `irevla train` that a signal meets at chosen moments, each in a process forked from this one.

    python campaign.py CONFIG SIGNAL OUT MOMENT ...

A moment is the n-th time that the learner is about to change something in the folder of the run or to step the worlds.
One attempt a moment, all but the first with --resume, and then one that nothing meets. Prints one JSON line for each:
exit code (minus the signal that ended it), moments that it had, and lines on standard error.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import sys
import tempfile
import threading
from pathlib import Path

from stand_in_worlds import StandInWorlds

from irevla_trainer import cli
from irevla_trainer.loop import algorithm, check, display, run  # noqa: F401  (loaded once, before all forks)

_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "shutil.copytree", "shutil.copyfile")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def watch(folder: str, number: int, moment: int, counter: mmap.mmap) -> None:
    """Send this process a signal at its moment of the given number."""
    seen = 0
    learner = threading.get_ident()

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event == "open":
            path, _, flags = arguments
            counts = isinstance(flags, int) and flags & _WRITES and str(path).startswith(folder)
        elif event in _CHANGES:
            counts = str(arguments[0]).startswith(folder)
        else:
            counts = event == "stand_in_worlds.step"
        # Other threads have moments of their own, at other times in every run.
        if not counts or threading.get_ident() != learner:
            return
        seen += 1
        counter[:8] = struct.pack("q", seen)
        if seen == moment:
            os.kill(os.getpid(), number)

    sys.addaudithook(hook)


def attempt(words: list[str], folder: str, number: int, moment: int) -> dict[str, object]:
    """One process."""
    counter = mmap.mmap(-1, 8)
    with tempfile.TemporaryFile("w+") as errors:
        child = os.fork()
        if child == 0:
            os.dup2(errors.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            watch(folder, number, moment, counter)
            os._exit(cli.main(words))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        errors.seek(0)
        lines = errors.read().splitlines()
    return {"code": code, "moments": struct.unpack("q", counter[:8])[0], "errors": lines}


def main() -> None:
    """The campaign of the command line."""
    config, number, out, *moments = sys.argv[1:]
    algorithm.Worlds = StandInWorlds  # type: ignore[misc, assignment]
    algorithm.write_report = lambda folder: folder
    words = ["train", "--config", config, "--out", out]
    # A run that was killed before its folder was there is begun, not resumed.
    for moment in [*map(int, moments), 0]:
        resume = ["--resume"] if Path(out, "config.yaml").exists() else []
        print(json.dumps(attempt(words + resume, out, int(number), moment)), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main()
