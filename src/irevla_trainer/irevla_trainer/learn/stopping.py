"""Stopping long work between two steps, never within one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

_HELD = (signal.SIGINT, signal.SIGTERM)


@dataclass
class StopRequest:
    """Signals that arrived while they were held back."""

    arrived: list[int] = field(default_factory=list)

    @property
    def asked(self) -> bool:
        """Whether there were any."""
        return bool(self.arrived)


@contextmanager
def held_signals() -> Iterator[StopRequest]:
    """Hold SIGINT and SIGTERM back until the block is left; then they take their usual effect.

    The block looks at `asked` between its steps and leaves with everything in order. Outside the main thread, where
    Python delivers no signals, nothing is held; nor is a signal that the process ignores, as under nohup.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, frame: FrameType | None) -> None:
        request.arrived.append(number)

    heeded = [number for number in _HELD if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in heeded}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if request.arrived:
            signal.raise_signal(request.arrived[0])
