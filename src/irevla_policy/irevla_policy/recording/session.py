"""The running episode as its messages tell it: who acts, how many steps, whether it succeeded, what is to come."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

from irevla_policy.recording.episode import EpisodeInfo
from irevla_policy.recording.interfaces import stamp_of

_SOURCE_POLICY, _SOURCE_INTERVENTION = 0, 1


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
    _answered: set[int] = field(default_factory=set)
    _seen: dict[str, int] = field(default_factory=dict)
    _sources: set[int] = field(default_factory=set)
    _last_stamp: int = -1
    _ended: str = ""

    def on_observation(self, topic: str, stamp: int) -> None:
        """A camera image or joint states with this stamp (ns) arrived."""
        self._seen[topic] = stamp

    def on_command(self, message: Any) -> None:
        """An irevla_msgs/Command arrived."""
        if message.source not in (_SOURCE_POLICY, _SOURCE_INTERVENTION):
            return
        if not self._answered:
            self.info = replace(self.info, instruction=self.instruction)
        self._answered.add(stamp_of(message.header))
        self._sources.add(int(message.source))
        if message.policy_version and not self.info.policy_version:
            self.info = replace(self.info, policy_version=message.policy_version)
        if self.info.source == "policy" and _SOURCE_INTERVENTION in self._sources:
            self.info = replace(self.info, source="mixed")

    def on_step(self, message: Any) -> None:
        """An irevla_msgs/StepInfo arrived."""
        stamp = stamp_of(message.header)
        if stamp == self._last_stamp:
            return
        self._last_stamp = stamp
        if message.step == 0:
            # What came before the reset belongs to no episode.
            self._answered.clear()
            self._sources.clear()
            self._ended = ""
            self.info = replace(self.info, policy_version="")
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

    @property
    def complete(self) -> bool:
        """Whether the whole newest observation has arrived; true without a simulator that names it."""
        return self._last_stamp < 0 or all(self._seen.get(topic, -1) >= self._last_stamp for topic in self.awaited)

    def described(self, stamp: int, state: str) -> EpisodeInfo:
        """The description now.

        Args:
            stamp: Now, ns.
            state: One of `episode.STATES`.
        """
        info = replace(self.info, stamp=stamp, state=state, steps=len(self._answered))
        if not info.instruction:
            info = replace(info, instruction=self.instruction)
        if info.success == "unknown" and self._ended:
            info = replace(info, success=self._ended, labelled_by="simulator")
        return info
