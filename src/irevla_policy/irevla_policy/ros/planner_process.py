"""A planner in a process of its own: MoveIt plans for seconds and lets no other Python run meanwhile."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection

from irevla_policy.errors import UserError
from irevla_policy.robot.scene import Array, HomingError, Motion, Planner

_START = 60.0
"""s that a planner may take to come up."""


class PlannerProcess:
    """Plans one way at a time, while its caller goes on.

    Args:
        make: Makes the planner; is sent to the process, so that it has to be a function of a module.

    Raises:
        UserError: The planner cannot be made; says why.
    """

    def __init__(self, make: Callable[[], Planner]) -> None:
        self._make = make
        self._start()
        try:
            if not self._pipe.poll(_START):
                raise UserError(f"the planner of the way home did not come up within {_START:g} s")
            self._received()
        except UserError:
            self.close()
            raise
        self._is_up = True

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(self._make, theirs), name="planner", daemon=True)
        self._process.start()
        theirs.close()
        self._is_up = self._plans = False

    def begin(self, start: Array, period: float) -> None:
        """Plan a way; one that is still being planned is given up. See `Planner.plan`.

        It waits for nothing: a planner that has to be made again finds the way as soon as it is up.
        """
        if self._plans:
            self._restart()
        try:
            self._pipe.send((start, period))
        except OSError:  # it has died since the last way
            self._restart()
            self._pipe.send((start, period))
        self._plans = True

    def _restart(self) -> None:
        self.close()
        self._start()

    def found(self) -> Motion | None:
        """The way; None while it is planned.

        Raises:
            HomingError: No way is free; says why.
            UserError: The planner had to be made again, and cannot be.
        """
        if not self._pipe.poll():
            return None
        if not self._is_up:
            self._received()
            self._is_up = True
            return None
        self._plans = False
        return self._received()

    def _received(self) -> Motion | None:
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise HomingError(f"the planner of the way home ended, exit code {self._process.exitcode}") from None
        if isinstance(answer, Exception):
            raise answer
        assert answer is None or isinstance(answer, Motion)
        return answer

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
    pipe.send(None)
    while True:
        try:
            start, period = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(planner.plan(start, period))
        except HomingError as error:
            pipe.send(HomingError(str(error)))
        except Exception as error:
            pipe.send(HomingError(f"no way home: planning failed ({type(error).__name__}: {error})"))
