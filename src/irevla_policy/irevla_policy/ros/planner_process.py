"""A planner in a process of its own: MoveIt plans for seconds and lets no other Python run meanwhile."""

from __future__ import annotations

import math
import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from irevla_policy.errors import UserError
from irevla_policy.robot.scene import Array, HomingError, Motion, Planner

_START = 60.0
"""s that a planner may take to come up."""

_STUCK = 60.0
"""s without an answer after which it is made again."""


class PlannerProcess:
    """Plans one way at a time, while its caller goes on.

    Args:
        make: Makes the planner; is sent to the process, so that it has to be a function of a module.

    Raises:
        UserError: The planner cannot be made; says why.
    """

    def __init__(self, make: Callable[[], Planner]) -> None:
        self._make = make
        self._number = 0
        self._start()
        try:
            if not self._pipe.poll(_START):
                raise UserError(f"the planner of the way home did not come up within {_START:g} s")
            self._received()
        except UserError:
            self.close()
            raise

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(self._make, theirs), name="planner", daemon=True)
        self._process.start()
        theirs.close()
        self._unanswered_since = math.inf

    def begin(self, start: Array, period: float) -> None:
        """Plan a way; one that is still being planned is given up. See `Planner.plan`.

        It waits for nothing: a planner that has to be made again finds the way as soon as it is up.
        """
        self._number += 1
        if time.monotonic() - self._unanswered_since > _STUCK:
            self._restart()
        try:
            self._pipe.send((self._number, start, period))
        except OSError:  # it has died since the last way
            self._restart()
            self._pipe.send((self._number, start, period))
        self._unanswered_since = min(self._unanswered_since, time.monotonic())

    def _restart(self) -> None:
        self.close()
        self._start()

    def found(self) -> Motion | None:
        """The way; None while it is planned.

        Raises:
            HomingError: No way is free; says why.
            UserError: The planner had to be made again, and cannot be.
        """
        while self._pipe.poll():
            number, answer = self._received()
            self._unanswered_since = math.inf if number == self._number else time.monotonic()
            if number != self._number:
                continue
            if isinstance(answer, Exception):
                raise answer
            return answer
        return None

    def _received(self) -> tuple[int, Motion | HomingError | None]:
        """Number and answer of a way that was asked for; 0 once the planner is up.

        Raises:
            UserError: It cannot be made, or has ended.
        """
        try:
            found: tuple[int, Motion | HomingError | None] | UserError = self._pipe.recv()
        except (EOFError, OSError):
            self._unanswered_since = math.inf
            raise HomingError(f"the planner of the way home ended, exit code {self._process.exitcode}") from None
        if isinstance(found, UserError):
            raise found
        return found

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _serve(make: Callable[[], Planner], pipe: Connection) -> None:
    """Answer until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        planner = make()
    except UserError as error:
        pipe.send(UserError(str(error)))
        return
    pipe.send((0, None))
    while True:
        try:
            number, start, period = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((number, planner.plan(start, period)))
        except HomingError as error:
            pipe.send((number, HomingError(str(error))))
        except Exception as error:
            pipe.send((number, HomingError(f"no way home: planning failed ({type(error).__name__}: {error})")))
