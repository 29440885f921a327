"""A thread that ticks on the steady clock, whatever the executor does."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np

_KEPT = 2048


class Ticker:
    """Calls a function at a fixed rate from a thread of its own.

    Ticks lie on a grid, so that lateness does not add up; after a delay of more than a period the grid starts anew
    instead of catching up in a burst.

    Args:
        period: s.
        tick: The function; an exception ends the thread and is told to `on_failure`.
        on_failure: Receives that exception.
    """

    def __init__(self, period: float, tick: Callable[[], None], on_failure: Callable[[BaseException], None]) -> None:
        self._period = period
        self._tick = tick
        self._on_failure = on_failure
        self._stop = threading.Event()
        self._late: deque[float] = deque(maxlen=_KEPT)
        self._thread: threading.Thread | None = None
        self.ticks = 0
        self.missed = 0

    def start(self) -> None:
        """Begin to tick."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="ticker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End; returns when no tick runs any more."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._thread = None

    def lateness(self) -> tuple[float, float]:
        """Median and 99th percentile of how late the last ticks were, s."""
        late = list(self._late)
        if not late:
            return 0.0, 0.0
        return float(np.percentile(late, 50)), float(np.percentile(late, 99))

    def _run(self) -> None:
        due = time.monotonic()
        try:
            while not self._stop.is_set():
                self._late.append(time.monotonic() - due)
                self._tick()
                self.ticks += 1
                due += self._period
                delay = due - time.monotonic()
                if delay < -self._period:
                    self.missed += int(-delay / self._period)
                    delay = self._period
                    due = time.monotonic() + delay
                if delay > 0.0:
                    time.sleep(delay)
        except BaseException as error:
            self._on_failure(error)
