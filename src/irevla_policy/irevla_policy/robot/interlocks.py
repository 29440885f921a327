"""The guard's interlocks: everything that speaks against following the policy, or anybody (pure).

They know what has arrived and when, and give the reasons for a hold; nothing here moves the robot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from irevla_policy.robot.decision import Reason, Source
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.robot.watchdog import Watchdog

SILENCE = 1.0
"""A policy that was silent for this long is reported as missing instead of late, s."""


@dataclass(frozen=True)
class GuardTimes:
    """Times and tolerances that are the guard's own, not the robot's.

    Attributes:
        intervention_timeout: How long an intervention overrides the policy, s; one and a half control periods at least.
        heartbeat_timeout: Oldest heartbeat, when the profile requires one, s.
        rearm_tolerance: Difference between measured and commanded joints after which a hold ends at the measured
            state, rad.
        displacement_tolerance: The same while the robot moves: it brakes to rest and starts again from the measured
            state, so that an arm that is blocked, or was put elsewhere, is not chased, rad. An arm that holds is held
            where it was pushed from there on, with the E-stop set from `rearm_tolerance` on.
    """

    intervention_timeout: float = 0.25
    heartbeat_timeout: float = 0.15
    rearm_tolerance: float = 0.1
    displacement_tolerance: float = 0.5


class Interlocks:
    """Watchdogs, refusals, E-stop and instruction.

    Args:
        profile: The robot.
        times: The guard's own times.
        lock_step: Whether the world waits for every answer; then nothing is timed.
        latches: Whether what a person must look at holds until it is cleared, also when it has passed: another
            publisher of commands, joint states that cannot be used, an arm that does not follow.
    """

    def __init__(self, profile: RobotProfile, times: GuardTimes, lock_step: bool, latches: bool = False) -> None:
        self._profile = profile
        self._latches = latches
        self._latched: dict[str, str] = {}
        self._times = times
        self._lock_step = lock_step
        self.cameras = {
            camera.name: Watchdog(f"camera {camera.name!r} ({camera.topic})", profile.stale_timeout)
            for camera in profile.cameras
        }
        self.joint_states = Watchdog(f"joint states ({profile.joint_states_topic})", profile.stale_timeout)
        self.heartbeat = Watchdog("operator's heartbeat (/irevla/heartbeat)", times.heartbeat_timeout)
        self.instruction = ""
        self.active = False
        self.estopped = False
        self._other_publishers = ""
        self.forget()

    def forget(self) -> None:
        """Start anew, as if nothing had arrived; instruction, E-stop, what is latched and other publishers stay."""
        for watchdog in (*self.cameras.values(), self.joint_states, self.heartbeat):
            watchdog.forget()
        self._joint_states_error = ""
        self.refused = 0
        self._refusal: Reason | None = None
        self._device_refusal: Reason | None = None
        self._device_refused = -math.inf
        self._policy_word = -math.inf
        self._observed: float | None = None

    # What a person must look at.

    def on_joint_states(self, error: str = "") -> None:
        """Joint states arrived; with a sentence when they cannot be used."""
        self._joint_states_error = error
        if error:
            self.latch("joint_states_invalid", error)

    def on_publishers(self, others: Sequence[str]) -> None:
        """Nodes beside the guard that publish the command topic."""
        topic = self._profile.command.topic
        self._other_publishers = f"{topic} is also published by {', '.join(others)}: end it" if others else ""
        if others:
            self.latch("other_publisher", self._other_publishers)

    def latch(self, code: str, sentence: str) -> None:
        """Hold for a reason until it is cleared, if reasons latch."""
        if self._latches and self.active:
            self._latched.setdefault(code, sentence)

    def clear(self) -> bool:
        """Release the E-stop and what is latched; returns whether there was any."""
        cleared = self.estopped or bool(self._latched)
        self.estopped = False
        self._latched.clear()
        return cleared

    # What was proposed.

    def on_policy_word(self, now: float) -> None:
        """The policy said something, whatever it is worth."""
        self._policy_word = now

    def refuse(self, source: Source, now: float, code: str, sentence: str) -> None:
        """Count a refusal. The policy's blocks until its next good action, a device's for as long as it would drive."""
        self.refused += 1
        who = "action" if source is Source.POLICY else "intervention"
        reason = Reason(code, f"{who} refused: {sentence}")
        if source is Source.POLICY or self._lock_step:
            self._refusal = reason
        else:
            self._device_refusal, self._device_refused = reason, now

    def on_good_action(self, observed: float) -> None:
        """The policy's action can be followed; its observation was made at this time, s."""
        self._refusal, self._observed = None, observed

    def on_good_intervention(self) -> None:
        """A device's action can be followed."""
        self._device_refusal = None

    def forget_actions(self) -> None:
        """No action of before counts any more."""
        self._observed = None

    def forget_refusal(self) -> None:
        """In lock-step every observation is answered anew."""
        self._refusal = None

    @property
    def refuses(self) -> bool:
        """Whether the newest action was refused."""
        return self._refusal is not None

    # What speaks against it.

    def joint_states_unknown(self, now: float) -> bool:
        """Whether the measured state is unusable or too old."""
        return bool(self._joint_states_error or self.joint_states.complaint(now))

    def against_anybody(self, now: float) -> list[Reason]:
        """What speaks against following anybody."""
        reasons = []
        if not self.active:
            reasons.append(Reason("inactive", "the guard is not active"))
        if self.estopped:
            reasons.append(Reason("estop", "E-stop is set: release it with /irevla/clear_estop"))
        now_wrong = {"other_publisher": self._other_publishers, "joint_states_invalid": self._joint_states_error}
        for code, sentence in (self._latched | {code: text for code, text in now_wrong.items() if text}).items():
            latched = "; holds until /irevla/clear_estop" if code in self._latched else ""
            reasons.append(Reason(code, sentence + latched))
        if self._lock_step:
            return reasons
        if complaint := self.joint_states.complaint(now):
            reasons.append(Reason("joint_states_stale", complaint))
        if self._profile.require_heartbeat and (complaint := self.heartbeat.complaint(now)):
            reasons.append(Reason("heartbeat_missing", complaint))
        if self._device_refusal is not None and now - self._device_refused <= self._times.intervention_timeout:
            reasons.append(self._device_refusal)
        return reasons

    def against_policy(self, now: float) -> list[Reason]:
        """What speaks against following the policy, beside what speaks against anybody."""
        reasons = []
        if not self.instruction:
            reasons.append(Reason("no_instruction", "no instruction: publish one on /irevla/instruction"))
        if self._refusal is not None:
            reasons.append(self._refusal)
        if self._lock_step:
            if math.isinf(self._policy_word):
                reasons.append(_NO_ACTION)
            return reasons
        for watchdog in self.cameras.values():
            if complaint := watchdog.complaint(now):
                reasons.append(Reason("camera_stale", complaint))
        if not self.estopped and (missing := self._missing_action(now)):
            reasons.append(missing)
        return reasons

    def _missing_action(self, now: float) -> Reason | None:
        silence = now - self._policy_word
        if math.isinf(silence):
            return _NO_ACTION
        if silence > SILENCE:
            return Reason(
                "action_missing", f"the policy is silent for {silence:.1f} s: it is dead, stopped or overloaded"
            )
        limit = self._profile.action_timeout + 1.0 / self._profile.control_rate
        if self._observed is None:
            return Reason("action_missing", "no action that can be followed has arrived yet")
        age = now - self._observed
        if age > limit:
            return Reason("action_late", f"newest action answers an observation {age:.3f} s old, expected {limit:g} s")
        return None


_NO_ACTION = Reason("action_missing", "no action has arrived on /irevla/action: is the policy running?")
