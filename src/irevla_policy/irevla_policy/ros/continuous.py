"""Answers without waiting for the model: while a chunk is carried out, the next one is computed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from irevla_policy.robot.chunks import shortage
from irevla_policy.robot.observation import Observation
from irevla_policy.robot.pilot import Flown, Pilot, Question, ServedPolicy, Thought
from irevla_policy.ros.forward_thread import ForwardThread


class ContinuousAnswers:
    """Has a pilot go on by its chunks, and the model at work on the newest observation all the time.

    An observation for which there is no action yet stays open for a moment, in case a chunk comes.

    Args:
        pilot: Answers an observation.
        forward: Makes the passes; what it gives comes back through `take`.
        on_gap: Receives a sentence whenever an observation went unanswered because a chunk was too short.
        control_rate: Hz.
        patience: How long an observation stays open, s; well below what the guard allows an action.
    """

    def __init__(
        self,
        pilot: Pilot,
        forward: ForwardThread,
        on_gap: Callable[[str], None],
        control_rate: float,
        patience: float,
    ) -> None:
        self._pilot = pilot
        self._forward = forward
        self._on_gap = on_gap
        self._control_rate = control_rate
        self._patience = patience
        self.forget()

    def forget(self) -> None:
        """Begin anew, as if nothing had come."""
        self._served: ServedPolicy | None = None
        self._newest: Observation | None = None
        self._asked: Observation | None = None
        self._came = 0.0
        self._is_open = False
        self._used_up = 0
        self._seconds = 0.0

    @property
    def newest(self) -> Observation | None:
        """The observation that came last."""
        return self._newest

    def take(self, results: Sequence[tuple[Question, Thought | Exception]]) -> None:
        """Forward passes that have finished.

        Raises:
            Exception: Whatever the model raised, when its answer is still wanted.
        """
        for question, result in results:
            if not self._pilot.still_wants(question):
                continue
            if isinstance(result, Exception):
                raise result
            self._seconds = result.seconds
            self._pilot.take(result)

    def answer(self, served: ServedPolicy, observation: Observation, start_over: bool) -> Flown | None:
        """Answer an observation; None when there is no action for it yet. Arguments as of `Pilot.answer`."""
        if self._is_open and self._used_up:
            seconds = max(self._seconds, self._forward.elapsed)
            self._on_gap(shortage(self._used_up, self._control_rate, seconds))
        flown = self._pilot.go_on(served, observation, start_over)
        self._served, self._newest = served, observation
        self._is_open, self._used_up, self._came = flown is None, self._pilot.chunk, time.monotonic()
        self._ask()
        return flown

    def answer_late(self, served: ServedPolicy | None) -> Flown | None:
        """Answer the newest observation if it is still open and a chunk has come for it, then ask on."""
        if self._newest is None or served is None or served is not self._served:
            return None
        flown = None
        if self._is_open and time.monotonic() - self._came <= self._patience:
            flown = self._pilot.go_on(served, self._newest, start_over=False)
            self._is_open = flown is None
        self._ask()
        return flown

    def _ask(self) -> None:
        """Have the model look at the newest observation, unless it does already or has."""
        if self._newest is not None and self._newest is not self._asked and not self._forward.busy:
            self._asked = self._newest
            self._forward.ask(self._pilot.question(self._newest))
