"""Lock-step: every observation is answered exactly once, whatever arrives twice, late or in another order.

The joint states carry the stamp of the observation that the world waits with. A proposal counts when it answers that
stamp. A world that repeats its observation, or a policy that repeats its answer, gets the same decision again; the
motion is not carried out twice.
"""

from __future__ import annotations

from irevla_policy.robot.decision import Decision, Source
from irevla_policy.robot.guard import GuardCore
from irevla_policy.robot.interlocks import GuardTimes
from irevla_policy.robot.limits import PositionKinematics
from irevla_policy.robot.observation import Vector
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.robot.proposal import Proposal
from irevla_policy.robot.scene import Scene

# Stamps of successive observations are a control period apart to the rounding of ns.
_STAMP_TOLERANCE = 1_000


def follows(stamp: int, previous: int | None, control_rate: float) -> bool:
    """Whether an observation comes one control period after another one.

    In lock-step anything else is the start of an episode: a reset moves the stamp by more than a period, and what was
    commanded before no longer counts.

    Args:
        stamp: ns.
        previous: Stamp of the other one, ns; None when there is none.
        control_rate: Hz.
    """
    return previous is not None and abs(stamp - previous - round(1e9 / control_rate)) <= _STAMP_TOLERANCE


class LockStepGuard:
    """Matches proposals with observations and lets the core answer.

    Args:
        profile: The robot.
        kinematics: Its forward kinematics.
        times: The guard's times; of them only `intervention_timeout` counts, as the wall time that a policy's action
            waits for a device that answered the observation before.
        scene: What no command may touch; None checks nothing.
    """

    def __init__(
        self,
        profile: RobotProfile,
        kinematics: PositionKinematics,
        times: GuardTimes | None = None,
        scene: Scene | None = None,
    ) -> None:
        self._times = times or GuardTimes()
        self._profile = profile
        self.core = GuardCore(profile, kinematics, self._times, lock_step=True, scene=scene)
        self.forget()

    def forget(self) -> None:
        """Start anew, as if nothing had arrived."""
        self._observation: int | None = None
        self._answered: int | None = None
        self._decision: Decision | None = None
        self._action: Proposal | None = None
        self._intervention: Proposal | None = None
        self._action_since = 0.0

    def on_joint_states(self, positions: Vector, gripper: float, now: float, stamp: int) -> Decision | None:
        """The world waits with the observation of this stamp; returns what to send, if anything."""
        if stamp == self._answered:
            return self._decision
        self._observation = stamp
        self.core.on_joint_states(positions, gripper, now, stamp)
        return self.poll(now)

    def on_action(self, proposal: Proposal, now: float) -> Decision | None:
        """The policy proposes; returns what to send, if anything."""
        if proposal.stamp == self._answered:
            return self._decision
        self._action, self._action_since = proposal, now
        return self.poll(now)

    def on_intervention(self, proposal: Proposal, now: float) -> Decision | None:
        """A device proposes (a stamp of 0 answers the present observation); returns what to send, if anything."""
        if proposal.stamp and proposal.stamp == self._answered:
            return self._decision
        self._intervention = proposal
        return self.poll(now)

    def poll(self, now: float) -> Decision | None:
        """Answer the observation if someone proposed; to be called regularly, as a policy may wait for a device."""
        if self._observation is None or self._observation == self._answered:
            return None
        device, policy = self._intervention, self._action
        if device is not None and device.stamp in (0, self._observation):
            return self._answer(device, Source.INTERVENTION)
        if policy is None or policy.stamp != self._observation:
            return None
        intervened = self._decision is not None and self._decision.source is Source.INTERVENTION
        continuous = follows(self._observation, self._answered, self._profile.control_rate)
        if intervened and continuous and now - self._action_since < self._times.intervention_timeout:
            return None
        return self._answer(policy, Source.POLICY)

    def _answer(self, proposal: Proposal, source: Source) -> Decision:
        assert self._observation is not None
        continuous = follows(self._observation, self._answered, self._profile.control_rate)
        self._answered = self._observation
        self._action = self._intervention = None
        decision = self.core.answer(proposal, source, continuous)
        self._decision = decision
        return decision
