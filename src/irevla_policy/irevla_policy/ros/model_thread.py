"""The thread that runs the policy, so that the executor stays free for messages."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

from irevla_policy.robot.decision import Source
from irevla_policy.robot.lockstep import follows
from irevla_policy.robot.observation import Observation
from irevla_policy.robot.pilot import Flown, Pilot, Question, ServedPolicy, Thought
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.robot.proposal import Proposal
from irevla_policy.ros.continuous import ContinuousAnswers
from irevla_policy.ros.forward_thread import ForwardThread

# A lock-step observation waits this long for the command that the one before led to, s.
_COMMAND_WAIT = 0.5
# Without observations nobody waits, so that other work need not wait either, s.
_NO_OBSERVATION = 0.25
# Observations of a real-time stream that are further apart than this do not belong together, ns.
_GAP = 500_000_000


class ModelThread:
    """Answers observations one after the other, each with the newest policy.

    In real time only the newest observation waits; in lock-step none is left out. A policy that decides one action at a
    time, and any policy in lock-step, decides here. In real time one that decides a chunk does so in a second thread,
    while this one answers from the chunk before.

    Args:
        pilot: Answers an observation.
        publish: Receives every answer, in this thread.
        on_failure: Receives an exception of `publish`; the thread goes on with the next observation.
        on_gap: Receives a sentence whenever an observation went unanswered because a chunk was too short.
        lock_step: Whether the world waits for every answer.
        profile: The robot.
    """

    def __init__(
        self,
        pilot: Pilot,
        publish: Callable[[Flown], None],
        on_failure: Callable[[Exception], None],
        on_gap: Callable[[str], None],
        lock_step: bool,
        profile: RobotProfile,
    ) -> None:
        self._pilot = pilot
        self._publish = publish
        self._on_failure = on_failure
        self._lock_step = lock_step
        self._control_rate = profile.control_rate
        self._forward = ForwardThread(self._on_forward)
        # What is left out by then is followed by an observation that the guard accepts an answer to.
        patience = 0.5 * min(profile.action_timeout, 1.0 / profile.control_rate)
        self._continuous = ContinuousAnswers(pilot, self._forward, on_gap, profile.control_rate, patience)
        self._changed = threading.Condition()
        self._waiting: deque[Observation] = deque(maxlen=None if lock_step else 1)
        self._thoughts: list[tuple[Question, Thought | Exception]] = []
        self._served: ServedPolicy | None = None
        self._previous: ServedPolicy | None = None
        self._command: tuple[int, Source] | None = None
        self._carried_out = -1
        self._last_stamp: int | None = None
        self._proposed: int | None = None
        self._running = False
        self._thread: threading.Thread | None = None
        self._answered = 0
        self.replaced = 0

    @property
    def served(self) -> ServedPolicy | None:
        """The policy that answers the next observation."""
        return self._served

    def serve(self, served: ServedPolicy, instead_of: ServedPolicy | None) -> bool:
        """Answer with this policy from the next observation on; False when another one than `instead_of` serves."""
        with self._changed:
            if self._served is not instead_of:
                return False
            if self._previous is not None and self._previous.version == served.version:
                # A way back as well: what is left behind is nothing to go back to.
                self._previous = None
            elif self._served is not None and self._served.version != served.version:
                self._previous = self._served
            self._served = served
            self._changed.notify_all()
            return True

    def roll_back(self) -> ServedPolicy | None:
        """Answer with the policy before the present one; None when there was none, or one came back from it already."""
        with self._changed:
            if self._previous is not None:
                self._served, self._previous = self._previous, None
                return self._served
            return None

    def start(self) -> None:
        """Begin to answer."""
        if self._thread is not None:
            self._thread.join()  # a forward pass that outlasted `stop`
        self._forward.start()
        self._running, self._last_stamp, self._proposed = True, None, None
        self._command, self._carried_out = None, -1
        self._thoughts.clear()
        self._continuous.forget()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 2.0) -> None:
        """Answer no more; waits for the forward pass that runs, at most `timeout` s."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._running = False
            self._waiting.clear()
            self._changed.notify_all()
        self._forward.stop()
        if self._thread is not None:
            self._thread.join(timeout)
        self._forward.join(max(0.0, deadline - time.monotonic()))

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
            if source is Source.POLICY:
                self._carried_out = stamp
            self._changed.notify_all()

    def wait_for_gap(self) -> None:
        """Wait until an observation has just been answered: until the next one comes there is time for other work."""
        with self._changed:
            answered = self._answered
            self._changed.wait_for(lambda: not self._running or self._answered != answered, _NO_OBSERVATION)

    def _on_forward(self, question: Question, result: Thought | Exception) -> None:
        with self._changed:
            self._thoughts.append((question, result))
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._running or self._thoughts or self._next_is_due())
                if not self._running:
                    return
                served = self._served
                observation = self._waiting.popleft() if self._next_is_due() else None
                in_turn = self._lock_step or served is None or served.chunk == 1
                start_over = observation is not None and self._starts_over(observation.stamp, in_turn)
                thoughts, self._thoughts = self._thoughts, []
            if start_over:
                self._proposed = None
            if observation is not None:
                self._last_stamp = observation.stamp
            try:
                flown = self._answer(served, observation, start_over, in_turn, thoughts)
                if self._running and flown is not None:
                    self._proposed = flown.proposal.stamp
                    self._publish(flown)
            except Exception as error:
                self._last_stamp = None
                if self._running:
                    self._on_failure(error)
            if observation is not None:
                with self._changed:
                    self._answered += 1
                    self._changed.notify_all()

    def _next_is_due(self) -> bool:
        return bool(self._waiting) and self._served is not None

    def _answer(
        self,
        served: ServedPolicy | None,
        observation: Observation | None,
        start_over: bool,
        in_turn: bool,
        thoughts: list[tuple[Question, Thought | Exception]],
    ) -> Flown | None:
        """The answer to an observation, or to the one before when there is none; None when there is none yet."""
        try:
            if in_turn:
                return self._pilot.answer(served, observation, start_over) if served and observation else None
            assert served is not None
            self._continuous.take(thoughts)
            if observation is None:
                return self._continuous.answer_late(served)
            return self._continuous.answer(served, observation, start_over)
        except Exception as error:
            # Nothing in place of an action: the guard refuses it and holds, and no world waits in vain.
            self._last_stamp = None
            observation = observation or self._continuous.newest
            assert served is not None and observation is not None
            nothing = Proposal(observation.stamp, (), (), (), math.nan, served.version)
            return Flown(nothing, 0.0, f"the model failed on an observation: {type(error).__name__}: {error}")

    def _starts_over(self, stamp: int, in_turn: bool) -> bool:
        """Whether the last proposal does not count: a new episode began, or the guard carried out something else."""
        last, command = self._last_stamp, self._command
        if last is None:
            return True
        if self._lock_step:
            if not follows(stamp, last, self._control_rate):
                return True
            self._changed.wait_for(
                lambda: not self._running or (self._command is not None and self._command[0] >= last), _COMMAND_WAIT
            )
            return self._command != (last, Source.POLICY)
        if not 0 < stamp - last < _GAP:
            return True
        if command is None or command[1] is Source.POLICY:
            return False
        if in_turn or command[1] is Source.INTERVENTION:
            return True
        # To start over costs a forward pass without motion. After a hold the arm stands where it was commanded, and can
        # go on; only a proposal that the guard held against is taken back.
        return self._proposed is not None and self._carried_out < self._proposed <= command[0]
