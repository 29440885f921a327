"""Log messages on the terminal without waiting for whoever reads them.

A logger writes while it holds Python's lock. Where nobody reads, because a terminal was stopped with Ctrl-S or a
launch process hangs, the pipe is full after some hundred messages, and the next one would stop every thread of the
process: of a guard the one that brakes. Here messages go into a pipe that never blocks, and a thread writes them on.
What has no room in it is left out on the terminal; the log file and /rosout have everything.

Python's own output and standard error stay as they are, so that the last words of a crash are not lost.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator, Mapping

import rclpy.logging

_STDOUT, _STDERR = 1, 2
# How long the end of a process waits for a reader, s.
_FAREWELL = 0.5


class LogOutput:
    """Takes the place of rcutils' console output, from before `rclpy.init` to the end of the process."""

    def __init__(self) -> None:
        sys.stdout.flush()
        stdout = os.dup(_STDOUT)
        sys.stdout = os.fdopen(stdout, "w", buffering=1)
        self._to = stdout if os.environ.get("RCUTILS_LOGGING_USE_STDOUT") == "1" else _STDERR
        self._from, pipe = os.pipe()
        os.set_blocking(pipe, False)
        os.dup2(pipe, _STDOUT)
        os.close(pipe)
        settings = {
            "RCUTILS_LOGGING_USE_STDOUT": "1",
            # Then a message is one write, which a pipe takes whole or not at all (below 4 KiB).
            "RCUTILS_LOGGING_BUFFERED_STREAM": "0",
            "RCUTILS_COLORIZED_OUTPUT": os.environ.get("RCUTILS_COLORIZED_OUTPUT", str(int(os.isatty(self._to)))),
        }
        with _environment(settings):
            rclpy.logging.initialize()
        self._thread = threading.Thread(target=self._write_on, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait a moment until everything has been read; for the end of the process, after the last message."""
        os.close(_STDOUT)  # ends what the thread reads
        self._thread.join(_FAREWELL)

    def _write_on(self) -> None:
        with contextlib.suppress(OSError):  # the reader is gone
            while messages := os.read(self._from, 1 << 16):
                while messages:
                    messages = messages[os.write(self._to, messages) :]


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Variables of the environment for a while; the processes that this one starts later do not inherit them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
