"""A watchdog on one stream of messages: when was the newest, and is that too long ago?"""

from __future__ import annotations

import math

# Stamps may be ahead of this machine's clock by as much as clocks of machines in one network differ.
FUTURE_TOLERANCE = 0.1


class Watchdog:
    """Watches one stream on the steady clock.

    Two things make a stream stale: nothing arrives, and what arrives was stamped long ago. A message that repeats the
    stamp of the one before is no news: a frozen camera driver does that.

    Args:
        what: Name of the stream for sentences, e.g. `camera 'wrist' (/wrist/image_raw)`.
        timeout: Oldest message to act on, s.
    """

    def __init__(self, what: str, timeout: float) -> None:
        self.what = what
        self.timeout = timeout
        self._newest = -math.inf
        self._stamp: int | None = None
        self._future = 0.0

    def forget(self) -> None:
        """Start anew, as if nothing had arrived."""
        self._newest, self._stamp, self._future = -math.inf, None, 0.0

    def seen(self, now: float, stamp: int | None = None, age: float = 0.0) -> None:
        """A message arrived.

        Args:
            now: Steady clock, s.
            stamp: The message's stamp, ns; None for a stream without stamps.
            age: How old the stamp is on the clock that made it, s; negative for a stamp in the future.
        """
        self._future = -age if age < -FUTURE_TOLERANCE else 0.0
        if self._future or (stamp is not None and stamp == self._stamp):
            return
        self._stamp = stamp
        self._newest = max(self._newest, now - max(age, 0.0))

    def age(self, now: float) -> float:
        """Age of the newest message, s; infinite before the first."""
        return now - self._newest

    def complaint(self, now: float) -> str:
        """What is wrong in one sentence; empty when the newest message is fresh."""
        age = self.age(now)
        if age <= self.timeout:
            return ""
        if self._future:
            return f"{self.what}: stamps are {self._future:.2f} s in the future, expected synchronised clocks"
        if math.isinf(age):
            return f"{self.what}: nothing has arrived yet"
        return f"{self.what}: newest is {age:.3f} s old, expected at most {self.timeout:g} s"
