"""The running episode as its messages tell it: who acts, how many steps, whether it succeeded, what is to come."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from irevla_policy.recording.episode import EpisodeInfo
from irevla_policy.recording.interfaces import stamp_of

_SOURCE_POLICY, _SOURCE_INTERVENTION = 0, 1
# A world in lock-step answers within a few ms; what has been quiet for longer than this stands still.
_QUIET_SECONDS = 0.04
# Time alone says little on a busy machine: so often nothing must have been waiting either.
_QUIET_CALLS = 3


class _Answer(NamedTuple):
    """A command that answers an observation."""

    stamp: int
    source: int
    policy_version: str
    instruction: str


@dataclass
class RunningEpisode:
    """Follows an episode while it is recorded.

    Attributes:
        info: Its description so far.
        awaited: Topics of which each observation has one message (cameras and joint states).
    """

    info: EpisodeInfo
    awaited: Collection[str]
    instruction: str = ""
    _answers: list[_Answer] = field(default_factory=list)
    _seen: dict[str, int] = field(default_factory=dict)
    _arrived: dict[str, int] = field(default_factory=dict)
    _arrivals: int = 0
    _arrivals_before: int = -1
    _quiet_since: float = 0.0
    _quiet_calls: int = 0
    _commanded: int = -1
    _last_stamp: int = -1
    _stamp_before: int = -1
    _began: int = -1
    _ended: str = ""

    @property
    def arrivals(self) -> int:
        """Messages of all topics so far."""
        return self._arrivals

    def on_arrival(self, topic: str, published: int) -> None:
        """A message of any topic arrived, which was published when the system clock said so much (ns)."""
        self._arrived[topic] = published
        self._arrivals += 1

    def on_observation(self, topic: str, stamp: int) -> None:
        """A camera image or joint states with this stamp (ns) arrived."""
        self._seen[topic] = stamp

    def on_command(self, message: Any) -> None:
        """An irevla_msgs/Command arrived."""
        self._commanded = stamp_of(message.header)
        if message.source not in (_SOURCE_POLICY, _SOURCE_INTERVENTION):
            return
        if self._commanded >= self._began:
            answer = _Answer(self._commanded, int(message.source), message.policy_version, self.instruction)
            self._answers.append(answer)

    def on_step(self, message: Any) -> None:
        """An irevla_msgs/StepInfo arrived."""
        stamp = stamp_of(message.header)
        if stamp == self._last_stamp:
            return
        self._stamp_before, self._last_stamp = self._last_stamp, stamp
        if message.step == 0:
            # What came before the reset belongs to no episode; a command that answers it may have been faster. Where
            # time went back, it is another simulator's.
            if stamp < self._stamp_before:
                self._commanded = -1
                self._answers = []
            self._answers = [answer for answer in self._answers if answer.stamp >= stamp]
            self._began, self._stamp_before, self._ended = stamp, -1, ""
        known = self.info
        self.info = replace(
            known,
            seed=int(message.seed) if known.seed < 0 else known.seed,
            task=known.task or message.task,
            variation=known.variation or message.variation,
        )
        if message.terminated or message.truncated:
            self._ended = "yes" if message.terminated else "no"

    def label(self, success: str, labelled_by: str) -> None:
        """Somebody says whether it succeeded."""
        self.info = replace(self.info, success=success, labelled_by=labelled_by)

    def _complete(self, simulated: bool) -> bool:
        """Whether the simulator's last word, the whole observation of it and the command that led to it have arrived.

        True without a simulator.
        """
        if not simulated and self._last_stamp < 0:
            return True
        # What is newer shows that a step is still to come.
        seen = all(self._seen.get(topic) == self._last_stamp for topic in self.awaited)
        # Without any, nobody publishes them.
        commanded = self._commanded < 0 or self._commanded >= self._stamp_before
        return bool(self._ended) and seen and commanded

    def settled(self, since: int, simulated: bool) -> bool:
        """Whether everything that was published before a moment has arrived.

        It has when every sensor has delivered something that was published later, or when the episode's last
        observation is whole and nothing comes any more: a world in lock-step that stands still. To be called again and
        again, each time after the messages that were waiting have been handed over.

        Args:
            since: The moment, ns, system clock.
            simulated: Whether a simulator is there. Its last word is waited for even where its first has not come yet.
        """
        now = time.monotonic()
        if self._arrivals != self._arrivals_before:
            self._arrivals_before, self._quiet_since, self._quiet_calls = self._arrivals, now, 0
        else:
            self._quiet_calls += 1
        if self.awaited and all(self._arrived.get(topic, 0) >= since for topic in self.awaited):
            return True
        quiet = self._quiet_calls >= _QUIET_CALLS and now - self._quiet_since >= _QUIET_SECONDS
        return self._complete(simulated) and quiet

    def described(self, stamp: int, state: str) -> EpisodeInfo:
        """The description now.

        Args:
            stamp: Now, ns.
            state: One of `episode.STATES`.
        """
        answers = self._answers
        info = replace(self.info, stamp=stamp, state=state, steps=len({answer.stamp for answer in answers}))
        if info.source == "policy" and any(answer.source == _SOURCE_INTERVENTION for answer in answers):
            info = replace(info, source="mixed")
        acted = {answer.policy_version for answer in answers if answer.policy_version}
        if len(acted) > 1:
            # Its success says nothing about either of them.
            info = replace(info, policy_version="")
        elif acted and not info.policy_version:
            info = replace(info, policy_version=acted.pop())
        if answers:
            info = replace(info, instruction=answers[0].instruction)
        elif not info.instruction:
            info = replace(info, instruction=self.instruction)
        if info.success == "unknown" and self._ended:
            info = replace(info, success=self._ended, labelled_by="simulator")
        return info
