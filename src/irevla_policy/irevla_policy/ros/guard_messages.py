"""Between the guard's core and its messages."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from irevla_msgs.msg import Action, Command, PolicyStatus
from irevla_policy.robot.decision import Decision, State, Status
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.robot.proposal import Proposal
from irevla_policy.ros.messages import nanoseconds, time_message


def proposal_of(message: Action) -> Proposal:
    """An action, or an intervention, in plain values; nothing is checked yet."""
    return Proposal(
        stamp=nanoseconds(message.header.stamp),
        values=tuple(message.values),
        joint_names=tuple(message.joint_names),
        joint_target=tuple(message.joint_target),
        gripper=message.gripper,
        policy_version=message.policy_version,
    )


def action_message(proposal: Proposal, forward_seconds: float = 0.0) -> Action:
    """A proposal as a message; `forward_seconds` is the time of the model's forward pass."""
    message = Action(
        values=list(proposal.values),
        joint_names=list(proposal.joint_names),
        joint_target=list(proposal.joint_target),
        gripper=float(proposal.gripper),
        policy_version=proposal.policy_version,
        forward_seconds=float(forward_seconds),
    )
    message.header.stamp = time_message(proposal.stamp)
    return message


def command_message(decision: Decision, profile: RobotProfile) -> Command:
    """What was sent, for the record."""
    last = decision.setpoints[-1]
    message = Command(
        joint_names=list(profile.joint_names),
        positions=last.position.tolist(),
        velocities=last.velocity.tolist(),
        gripper=decision.gripper,
        values=list(decision.values),
        source=int(decision.source),
        limited=decision.limited,
        reason=decision.reason,
        policy_version=decision.policy_version,
    )
    message.header.stamp = time_message(decision.stamp)
    return message


def status_message(status: Status, now: int) -> PolicyStatus:
    """The guard's account; `now` is ROS time in ns."""
    message = PolicyStatus(
        state=int(status.state),
        reason="; ".join(reason.sentence for reason in status.reasons),
        reason_codes=[reason.code for reason in status.reasons],
        policy_version=status.policy_version,
        instruction=status.instruction,
        actions_total=status.actions_total,
        actions_limited=status.actions_limited,
        actions_refused=status.actions_refused,
    )
    message.header.stamp = time_message(now)
    return message


def guard_diagnostics(status: Status, figures: dict[str, str], now: int) -> DiagnosticArray:
    """The guard's account for /diagnostics.

    Args:
        status: Its decisions.
        figures: Further values, e.g. of its clock.
        now: ROS time, ns.
    """
    levels = {State.RUNNING: DiagnosticStatus.OK, State.INTERVENED: DiagnosticStatus.OK}
    levels[State.ESTOPPED] = DiagnosticStatus.ERROR
    level = levels.get(status.state, DiagnosticStatus.WARN)
    if level == DiagnosticStatus.OK and status.reasons:
        level = DiagnosticStatus.WARN
    values = {
        "state": status.state.name.lower(),
        "reason_codes": ", ".join(reason.code for reason in status.reasons),
        "actions_total": str(status.actions_total),
        "actions_limited": str(status.actions_limited),
        "actions_refused": str(status.actions_refused),
        "policy_version": status.policy_version,
        **figures,
    }
    message = "; ".join(reason.sentence for reason in status.reasons) or status.state.name.lower()
    return diagnostics("irevla_guard", level, message, values, now)


def diagnostics(name: str, level: bytes, message: str, values: dict[str, str], now: int) -> DiagnosticArray:
    """One entry for /diagnostics; `now` is ROS time in ns."""
    entry = DiagnosticStatus(level=level, name=name, message=message, hardware_id="irevla")
    entry.values = [KeyValue(key=key, value=value) for key, value in values.items()]
    array = DiagnosticArray(status=[entry])
    array.header.stamp = time_message(now)
    return array
