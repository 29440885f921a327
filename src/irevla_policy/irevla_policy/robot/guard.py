"""The guard's decisions: who drives the robot, and why nobody does (pure; time comes in as the steady clock in s).

Each tick the robot follows an intervention while it is fresh, else the policy when nothing speaks against it, else it
*holds*: it brakes within the limits and then repeats the last commanded position. A measured position would let the arm
sink a little with every repetition. Only an arm that was pushed away, and stands there, is held where it stands:
farther than `displacement_tolerance`, or than `rearm_tolerance` while the E-stop is set.

An arm that touches something when it starts is moved by interventions only, until it has come apart from it.

The commanded state starts at the measured one on activation. When a hold ends it is kept, so that the arm does not sag
from hold to hold; only when the arm was moved meanwhile (measured and commanded differ by more than `rearm_tolerance`)
or the E-stop was cleared, it starts again from the measured state, and only once it is at rest. The same happens when
the arm does not follow at all (`displacement_tolerance`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from irevla_policy.robot.decision import Decision, Reason, Source, State, Status
from irevla_policy.robot.interlocks import SILENCE, GuardTimes, Interlocks
from irevla_policy.robot.limits import MotionLimiter, PositionKinematics
from irevla_policy.robot.observation import Vector
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.robot.proposal import Proposal, ProposalError, joint_target
from irevla_policy.robot.scene import Scene, Touch
from irevla_policy.robot.watchdog import FUTURE_TOLERANCE

# A target is aimed at one tick later than one period after its action came: the next action may be a tick late
# without the arm stopping in between.
_SLACK_TICKS = 1

_STILL, _STANDING = 0.02, 0.2
"""rad within which joint states, and s for which they must agree, so that a held arm is taken to stand elsewhere."""

_SLACK_PERIODS = 1.5
"""Control periods after which a device has fallen silent, where those are long."""


@dataclass(eq=False)
class _Accepted:
    """A proposal that is followed."""

    source: Source
    proposal: Proposal
    target: Vector
    arrived: float
    observed: float
    ticks_left: int
    is_new: bool = True


class GuardCore:
    """Decides what is sent to the robot.

    Args:
        profile: The robot.
        kinematics: Its forward kinematics.
        times: The guard's own times.
        lock_step: Whether the world waits for every answer; then nothing is timed.
        latches: Whether what a person must look at holds until it is cleared; see `Interlocks`.
        scene: What no command may touch; None checks nothing.
    """

    def __init__(
        self,
        profile: RobotProfile,
        kinematics: PositionKinematics,
        times: GuardTimes | None = None,
        lock_step: bool = False,
        latches: bool = False,
        scene: Scene | None = None,
    ) -> None:
        self._profile = profile
        times = times or GuardTimes()
        # A device speaks once in a control period, however long that is.
        longest = max(times.intervention_timeout, _SLACK_PERIODS / profile.control_rate)
        self._times = replace(times, intervention_timeout=longest)
        self._lock_step = lock_step
        self.dt = 1.0 / profile.guard_rate
        self._limiter = MotionLimiter(profile, kinematics, self.dt, scene)
        self._interlocks = Interlocks(profile, self._times, lock_step, latches)
        self._forget()

    def _forget(self) -> None:
        self._interlocks.forget()
        self._measured: Vector | None = None
        self._measured_at = -math.inf
        self._stands: tuple[float, Vector] | None = None
        self._at_rest_since = -math.inf
        self._measured_gripper = 0.0
        self._observation_stamp = 0
        self._armed = False
        self._rearm = False
        self._gripper = 0.0
        self._holding = self._yielded = False
        self._policy: _Accepted | None = None
        self._intervention: _Accepted | None = None
        self._last_source: Source | None = None
        self._version = ""
        self._total = self._limited = 0

    # What comes in.

    def activate(self) -> None:
        """Begin anew: nothing has arrived, the counters are zero; a latched E-stop and the instruction stay."""
        self._forget()
        self._interlocks.active = True

    def deactivate(self) -> None:
        """Follow nobody any more: `tick` brakes to rest and then decides nothing."""
        self._interlocks.active = False

    @property
    def is_moving(self) -> bool:
        """Whether the commanded state moves."""
        return self._armed and not self._limiter.at_rest

    def on_camera(self, name: str, now: float, stamp: int, age: float = 0.0) -> None:
        """An image of camera `name` arrived; see `Watchdog.seen`."""
        self._interlocks.cameras[name].seen(now, stamp, age)
        if name == self._profile.cameras[0].name and age >= -FUTURE_TOLERANCE:
            self._observation_stamp = stamp

    def on_joint_states(self, positions: Vector, gripper: float, now: float, stamp: int, age: float = 0.0) -> None:
        """Valid joint states arrived: positions in the profile's order, rad, `[n]`, gripper in m."""
        self._interlocks.joint_states.seen(now, stamp, age)
        self._measured, self._measured_gripper, self._measured_at = positions, gripper, now
        if self._stands is None or np.max(np.abs(positions - self._stands[1])) > _STILL:
            self._stands = now, positions
        if self._lock_step:
            self._observation_stamp = stamp
        self._interlocks.on_joint_states()

    def on_joint_states_error(self, sentence: str) -> None:
        """Joint states arrived that cannot be used; they block until valid ones come."""
        self._interlocks.on_joint_states(sentence)

    def on_instruction(self, text: str) -> None:
        """The instruction changed; empty for none."""
        self._interlocks.instruction = text.strip()

    def on_heartbeat(self, now: float) -> None:
        """The operator's dead-man signal."""
        self._interlocks.heartbeat.seen(now)

    def on_publishers(self, others: Sequence[str]) -> None:
        """Nodes beside the guard that publish the command topic: two that drive one arm keep no limits."""
        self._interlocks.on_publishers(others)

    def on_action(self, proposal: Proposal, now: float, age: float = 0.0) -> bool:
        """An action of the policy arrived.

        Args:
            proposal: The action.
            now: Steady clock, s.
            age: Time since the stamp of its observation on the clock that made the stamp, s.

        Returns:
            Whether it is followed from the next tick on.
        """
        if not self._interlocks.active:
            return False
        self._interlocks.on_policy_word(now)
        newest = self._policy
        if newest is not None and now - newest.arrived < SILENCE and proposal.stamp <= newest.proposal.stamp:
            if proposal.stamp < newest.proposal.stamp:
                sentence = "answers an older observation than the action before it"
                self._interlocks.refuse(Source.POLICY, now, "action_late", sentence)
            return False
        accepted = self._accept(Source.POLICY, proposal, now, age)
        if accepted is not None:
            self._policy = accepted
            self._interlocks.on_good_action(accepted.observed)
        return accepted is not None

    def on_intervention(self, proposal: Proposal, now: float, age: float = 0.0) -> bool:
        """An intervention arrived; arguments and result as for `on_action`, the age counts when it has a stamp."""
        if not self._interlocks.active:
            return False
        accepted = self._accept(Source.INTERVENTION, proposal, now, age if proposal.stamp else 0.0)
        self._intervention = accepted  # a device that sends nonsense drives no more
        if accepted is not None:
            self._interlocks.on_good_intervention()
        return accepted is not None

    def estop(self) -> str:
        """Latch the stop; returns what happens, in a sentence."""
        self._interlocks.estopped = True
        return "stopped: the arm brakes and holds until /irevla/clear_estop"

    def clear_estop(self) -> str:
        """Release the stop and what is latched; actions from before it are not taken up again."""
        if not self._interlocks.clear():
            return "was not stopped"
        self._interlocks.forget_actions()
        self._rearm = self._armed
        self._policy = self._intervention = None
        return "released: follows new actions from the measured state"

    # What goes out.

    def tick(self, now: float) -> Decision | None:
        """Decide in real time, once per `dt`.

        Args:
            now: Steady clock, s.

        Returns:
            A decision with one setpoint; None while the robot's state is unknown or the guard is inactive.
        """
        if not self._interlocks.active:
            return self._hold(now, 1) if self.is_moving else None
        if not self._arm(now):
            return None
        accepted = self._followed(now)
        if accepted is None or not self._leave_hold() or self._has_to_wait(accepted):
            return self._hold(now, 1)
        return self._follow(accepted)

    def answer(self, proposal: Proposal, source: Source, continuous: bool) -> Decision:
        """Decide in lock-step: a whole control period, whether the proposal is carried out or refused.

        Joint states of the observation must have come before.

        Args:
            proposal: What answers the observation.
            source: Who proposes.
            continuous: Whether the observation follows the one answered last; otherwise the world was reset and the
                commanded state starts at the measured one.

        Raises:
            RuntimeError: No joint states have come.
        """
        if self._measured is None:
            raise RuntimeError("answer: joint states of the observation must come first")
        if not self._armed or not continuous:
            self._start_at_measured()
            self._armed, self._holding = True, False
        self._interlocks.forget_refusal()
        self._interlocks.on_policy_word(0.0)
        accepted = self._accept(source, proposal, 0.0, 0.0)
        self._last_source = source
        reasons = self._interlocks.against_anybody(0.0)
        if source is Source.POLICY:
            reasons += self._against_policy(0.0)
        if accepted is None or reasons or not self._leave_hold() or self._has_to_wait(accepted):
            return self._hold(0.0, self._profile.substeps)
        return self._follow(accepted, self._profile.substeps)

    def status(self, now: float) -> Status:
        """Who drives the robot, and every reason why the policy does not."""
        reasons: list[Reason] = []
        interlocks = self._interlocks
        if not interlocks.active:
            state, reasons = State.INACTIVE, interlocks.against_anybody(now)[:1]
        elif interlocks.estopped:
            state, reasons = State.ESTOPPED, interlocks.against_anybody(now)
        else:
            state = self._driven_by(now)
            if state is State.HOLDING:
                reasons = interlocks.against_anybody(now) + self._against_policy(now)
        if self._armed and (touches := self._limiter.blocked):
            way_out = "/irevla/estop and /irevla/clear_estop let interventions move the arm away"
            reasons.append(Reason("blocked", f"touched since the arm started: {_named(touches)}; {way_out}"))
        if self._armed and any(self._limiter.violations()):
            reasons.append(Reason("start_outside_limits", self._outside()))
        counters = (self._total, self._limited, interlocks.refused)
        return Status(state, tuple(reasons), self._version, interlocks.instruction, *counters)

    # How it is decided.

    def _driven_by(self, now: float) -> State:
        if self._lock_step:
            stopped = self._interlocks.against_anybody(now) or self._interlocks.refuses
            source = None if stopped else self._last_source
        else:
            accepted = self._followed(now) if self._armed else None
            source = None if accepted is None else accepted.source
        if source is None or source is Source.HOLD:
            return State.HOLDING
        return State.RUNNING if source is Source.POLICY else State.INTERVENED

    def _accept(self, source: Source, proposal: Proposal, now: float, age: float) -> _Accepted | None:
        if self._interlocks.estopped:
            self._interlocks.refused += 1
            return None
        limit = self._profile.action_timeout
        if age > limit:
            sentence = f"came {age:.2f} s after its observation, expected within {limit:g} s"
            self._interlocks.refuse(source, now, "action_late", sentence)
            return None
        if age < -FUTURE_TOLERANCE:
            sentence = f"answers an observation {-age:.2f} s in the future"
            self._interlocks.refuse(source, now, "action_invalid", sentence)
            return None
        try:
            target = joint_target(proposal, self._profile, self._limiter.setpoint.position)
        except ProposalError as error:
            self._interlocks.refuse(source, now, "action_invalid", str(error))
            return None
        ticks = self._profile.substeps + _SLACK_TICKS
        return _Accepted(source, proposal, target, now, now - max(age, 0.0), ticks)

    def _followed(self, now: float) -> _Accepted | None:
        """The proposal to follow, if any."""
        if self._interlocks.against_anybody(now):
            return None
        device = self._intervention
        if device is not None and now - device.arrived <= self._times.intervention_timeout:
            return device
        return None if self._against_policy(now) else self._policy

    def _against_policy(self, now: float) -> list[Reason]:
        """Why the policy is not followed, though an intervention would be."""
        reasons = self._interlocks.against_policy(now)
        if self._armed and (touches := self._limiter.touches):
            sentence = f"touching: {_named(touches)}; move the arm away by an intervention"
            reasons = [*reasons, Reason("touching", sentence)]
        return reasons

    def _has_to_wait(self, accepted: _Accepted) -> bool:
        """Whether the arm, which may just have started anew, touches something and the policy is to move it."""
        return accepted.source is Source.POLICY and bool(self._limiter.touches)

    def _arm(self, now: float) -> bool:
        """Take the measured state as the commanded one, once; whether there is a commanded state."""
        if not self._armed and self._measured is not None and not self._interlocks.joint_states_unknown(now):
            self._start_at_measured()
            self._armed = True
        return self._armed

    def _start_at_measured(self) -> None:
        assert self._measured is not None
        self._limiter.reset(self._measured)
        self._rearm = False
        if not self._armed and self._profile.gripper is not None:
            # Neither opens nor closes before the first action: a gripper that holds something keeps it.
            closed, opened = self._profile.gripper.opening
            share = (self._measured_gripper - closed) / (opened - closed)
            self._gripper = float(np.clip(1.0 - 2.0 * share, -1.0, 1.0))

    def _leave_hold(self) -> bool:
        """Whether a hold can end now; starts at the measured state when the arm was moved."""
        assert self._measured is not None
        apart = self._apart()
        # An arm that starts from the measured state anyhow may be anywhere.
        displaced = not self._lock_step and not self._rearm and apart > self._times.displacement_tolerance
        if displaced:
            self._latch_displaced(apart)
        if (self._rearm or displaced) and not self._limiter.at_rest:
            self._rearm = True
            return False
        moved = self._holding and self._limiter.at_rest and apart > self._times.rearm_tolerance
        if self._rearm or displaced or moved:
            if self._measured_at <= self._at_rest_since:
                return False  # measured on the way to rest: the arm is not there any more
            self._start_at_measured()
        self._holding = self._yielded = False
        return True

    def _apart(self) -> float:
        """How far the joint that is farthest from where it was sent is from there, rad."""
        assert self._measured is not None
        return float(np.max(np.abs(self._measured - self._limiter.setpoint.position)))

    def _latch_displaced(self, apart: float) -> None:
        sentence = f"the arm is {apart:.2f} rad from where it was sent: something blocks or moves it"
        self._interlocks.latch("displaced", sentence)

    def _yield(self) -> None:
        """Hold an arm that was moved by hand where it is: with its drives on it would leap to where it was sent.

        Once it stands there, by joint states that agree for a while: a single wrong one moves nothing.
        """
        since = max(self._stands[0], self._at_rest_since) if self._stands is not None else math.inf
        if self._lock_step or not self._limiter.at_rest or self._measured_at < since + _STANDING:
            return
        apart, times = self._apart(), self._times
        if apart > times.displacement_tolerance and not self._rearm:
            self._latch_displaced(apart)
        freed = self._yielded or self._interlocks.estopped
        if apart > (times.rearm_tolerance if freed else times.displacement_tolerance):
            self._start_at_measured()
            self._yielded = True

    def _follow(self, accepted: _Accepted, ticks: int = 1) -> Decision:
        proposal, is_new = accepted.proposal, accepted.is_new
        # In lock-step a whole period lies between two targets, whoever names them.
        if accepted.source is not self._last_source and not self._lock_step:
            self._limiter.forget_targets()
        if self._lock_step:
            setpoints, limited = self._limiter.plan(accepted.target, ticks)
        else:
            # Its time is over and no other has come: brakes, where the target would be swung past and come back to.
            target = accepted.target if accepted.ticks_left > 0 else None
            setpoint, limited = self._limiter.advance(target, accepted.ticks_left * self.dt)
            setpoints = [setpoint]
            accepted.ticks_left -= 1
        accepted.is_new = False
        self._last_source = accepted.source
        self._gripper = float(np.clip(proposal.gripper, -1.0, 1.0))
        if is_new:
            self._total += 1
            self._limited += bool(limited)
            self._version = proposal.policy_version or self._version
        return Decision(
            accepted.source,
            proposal.stamp or self._observation_stamp,
            setpoints,
            self._gripper,
            proposal.values,
            limited,
            self._outside(),
            proposal.policy_version,
            is_new,
        )

    def _hold(self, now: float, ticks: int) -> Decision:
        if not self._limiter.at_rest:
            self._at_rest_since = now
        self._yield()
        setpoints, _ = self._limiter.plan(None, ticks)
        reasons = self._interlocks.against_anybody(now) + self._against_policy(now)
        if not reasons and self._rearm:
            reasons = [Reason("rearming", "brakes to a stop before it starts again from the measured state")]
        first, self._holding, self._last_source = not self._holding, True, Source.HOLD
        text = "; ".join(reason.sentence for reason in reasons)
        return Decision(Source.HOLD, self._observation_stamp, setpoints, self._gripper, reason=text, is_first=first)

    def _outside(self) -> str:
        joints, axes = self._limiter.violations()
        names = [f"joint {self._profile.joints[index].name!r}" for index in joints]
        names += [f"end effector in {'xyz'[axis]}" for axis in axes]
        return f"{', '.join(names)} outside the limits: moves inward only" if names else ""


def _named(touches: Sequence[Touch]) -> str:
    return ", ".join(f"{first} and {second}" for first, second in touches)
