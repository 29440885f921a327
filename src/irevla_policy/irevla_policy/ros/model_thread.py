"""The thread that runs the policy, so that the executor stays free for messages."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable

from irevla_policy.robot.decision import Source
from irevla_policy.robot.lockstep import follows
from irevla_policy.robot.observation import Observation
from irevla_policy.robot.pilot import Flown, Pilot, ServedPolicy
from irevla_policy.robot.proposal import Proposal

# A lock-step observation waits this long for the command that the one before led to, s.
_COMMAND_WAIT = 0.5
# Without observations nobody waits, so that other work need not wait either, s.
_NO_OBSERVATION = 0.25
# Observations of a real-time stream that are further apart than this do not belong together, ns.
_GAP = 500_000_000


class ModelThread:
    """Answers observations one after the other, each with the newest policy.

    In real time only the newest observation waits; in lock-step none is left out.

    Args:
        pilot: Answers an observation.
        publish: Receives every answer, in this thread.
        on_failure: Receives an exception of `publish`; the thread goes on with the next observation.
        lock_step: Whether the world waits for every answer.
        control_rate: Hz.
    """

    def __init__(
        self,
        pilot: Pilot,
        publish: Callable[[Flown], None],
        on_failure: Callable[[Exception], None],
        lock_step: bool,
        control_rate: float,
    ) -> None:
        self._pilot = pilot
        self._publish = publish
        self._on_failure = on_failure
        self._lock_step = lock_step
        self._control_rate = control_rate
        self._changed = threading.Condition()
        self._waiting: deque[Observation] = deque(maxlen=None if lock_step else 1)
        self._served: ServedPolicy | None = None
        self._previous: ServedPolicy | None = None
        self._command: tuple[int, Source] | None = None
        self._last_stamp: int | None = None
        self._running = False
        self._thread: threading.Thread | None = None
        self._answered = 0
        self.replaced = 0

    @property
    def served(self) -> ServedPolicy | None:
        """The policy that answers the next observation."""
        return self._served

    def serve(self, served: ServedPolicy) -> None:
        """Answer with this policy from the next observation on."""
        with self._changed:
            if self._served is not None and self._served.version != served.version:
                self._previous = self._served
            self._served = served
            self._changed.notify_all()

    def roll_back(self) -> ServedPolicy | None:
        """Answer with the policy before the present one; None when there was none."""
        with self._changed:
            if self._previous is not None:
                self._served, self._previous = self._previous, self._served
                return self._served
            return None

    def start(self) -> None:
        """Begin to answer."""
        if self._thread is not None:
            self._thread.join()  # a forward pass that outlasted `stop`
        self._running, self._last_stamp, self._command = True, None, None
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 2.0) -> None:
        """Answer no more; waits for the forward pass that runs, at most `timeout` s."""
        with self._changed:
            self._running = False
            self._waiting.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout)

    def observe(self, observation: Observation) -> None:
        """A complete observation."""
        with self._changed:
            if not self._lock_step and self._waiting:
                self.replaced += 1
            self._waiting.append(observation)
            self._changed.notify_all()

    def on_command(self, stamp: int, source: Source) -> None:
        """What the guard carried out for an observation."""
        with self._changed:
            self._command = (stamp, source)
            self._changed.notify_all()

    def wait_for_gap(self) -> None:
        """Wait until an observation has just been answered: until the next one comes there is time for other work."""
        with self._changed:
            answered = self._answered
            self._changed.wait_for(lambda: not self._running or self._answered != answered, _NO_OBSERVATION)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._running or (self._waiting and self._served is not None))
                if not self._running:
                    return
                observation, served = self._waiting.popleft(), self._served
                start_over = self._starts_over(observation.stamp)
            assert served is not None
            self._last_stamp = observation.stamp
            flown = self._answer(served, observation, start_over)
            try:
                if self._running:
                    self._publish(flown)
            except Exception as error:
                self._last_stamp = None
                if self._running:
                    self._on_failure(error)
            with self._changed:
                self._answered += 1
                self._changed.notify_all()

    def _answer(self, served: ServedPolicy, observation: Observation, start_over: bool) -> Flown:
        try:
            return self._pilot.answer(served, observation, start_over)
        except Exception as error:
            # Nothing in place of an action: the guard refuses it and holds, and no world waits in vain.
            self._last_stamp = None
            nothing = Proposal(observation.stamp, (), (), (), math.nan, served.version)
            return Flown(nothing, 0.0, f"the model failed on an observation: {type(error).__name__}: {error}")

    def _starts_over(self, stamp: int) -> bool:
        """Whether the last proposal does not count: a new episode began, or the guard carried out something else."""
        last = self._last_stamp
        if last is None:
            return True
        if self._lock_step:
            if not follows(stamp, last, self._control_rate):
                return True
            self._changed.wait_for(
                lambda: not self._running or (self._command is not None and self._command[0] >= last), _COMMAND_WAIT
            )
            return self._command != (last, Source.POLICY)
        return not 0 < stamp - last < _GAP or (self._command is not None and self._command[1] is not Source.POLICY)
