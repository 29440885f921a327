"""The decisions of a bag: their stamps, actions and instructions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.profile import RobotProfile
from irevla_trainer.data.alignment import in_force
from irevla_trainer.data.commands import ActionFromCommands, CommandedMotion, CommandError
from irevla_trainer.data.contents import BagContents
from irevla_trainer.data.report import BagReport

Array = npt.NDArray[np.float64]

_POLICY, _INTERVENTION = 0, 1
_NOT_EXECUTED = {2: "hold", 3: "homing"}
# Above this difference of clocks (ns), header stamps are not of the clock that the recorder stamped arrival with.
_OTHER_CLOCK = 5 * 10**9
# A command that overshoots its action by less is clipped without a word.
_SLIGHTLY = 0.05


@dataclass(frozen=True)
class Decision:
    """One decision.

    Attributes:
        stamp: Of its observation, ns.
        action: Raw action that was executed, `[action_dim]`.
        instruction: What was to be done; empty when nobody had said yet.
    """

    stamp: int
    action: Array
    instruction: str


def recorded(contents: BagContents, profile: RobotProfile, report: BagReport) -> list[Decision]:
    """Decisions of a bag of the recorder: the commands that the guard executed.

    Args:
        contents: Of the bag.
        profile: The robot.
        report: Gets what is left out and why.
    """
    kept = []
    for command, log_time in contents.commands:
        if command.source not in (_POLICY, _INTERVENTION):
            report.dropped[_NOT_EXECUTED.get(command.source, "unknown source")] += 1
        elif command.stamp < contents.reset:
            report.dropped["before the reset"] += 1
        elif len(command.values) != profile.action_dim:
            report.dropped[f"action of {len(command.values)} values"] += 1
        elif not np.isfinite(command.values).all():
            report.dropped["action not finite"] += 1
        else:
            kept.append((command, log_time))
    texts = _instructions(contents, [log_time for _, log_time in kept], shift=0)
    return [Decision(command.stamp, command.values, text) for (command, _), text in zip(kept, texts, strict=True)]


def derived(
    contents: BagContents, profile: RobotProfile, kinematics: ArmKinematics, report: BagReport
) -> list[Decision]:
    """Decisions of any other bag: one a control period, with the action that the controller's commands make of it.

    Args:
        contents: Of the bag.
        profile: The robot.
        kinematics: Its kinematics.
        report: Gets what is left out and why, and how times were found.
    """
    latency = int(np.median(contents.image_latency))
    shift = latency if abs(latency) > _OTHER_CLOCK else 0
    report.note("no /irevla/command: aligned by header stamps, instructions by bag time")
    if shift:
        report.note(
            f"header stamps are of another clock (simulated time?): bag times were shifted by {shift * 1e-9:.1f} s"
        )
    motion = _motion(contents, profile, report, shift)
    stamps = _control_periods(contents, profile, report)
    actions = _actions(contents, profile, kinematics, motion, stamps)
    without = sum(action is None for action in actions)
    if without:
        report.dropped["no command until the end of the control period"] += without
    texts = _instructions(contents, stamps, shift)
    found = zip(stamps, actions, texts, strict=True)
    decisions = [Decision(stamp, action, text) for stamp, action, text in found if action is not None]
    return _clipped(decisions, report) if profile.action_space == "ee_delta" else decisions


def _motion(contents: BagContents, profile: RobotProfile, report: BagReport, shift: int) -> CommandedMotion:
    motion = CommandedMotion(profile)
    stamped = profile.command.type.endswith("JointTrajectory")
    if not stamped:
        report.note(f"{profile.command.topic} has no stamps: aligned by bag time")
    for message, log_time in contents.motion:
        try:
            (motion.add_trajectory if stamped else motion.add_positions)(message, log_time - shift)
        except CommandError as error:
            contents.bad[str(error)] += 1
    return motion


def _control_periods(contents: BagContents, profile: RobotProfile, report: BagReport) -> list[int]:
    """Stamps of the first camera's images that are a control period apart."""
    period = 1e9 / profile.control_rate
    given = sorted(set(contents.image_stamps[profile.cameras[0].name]))
    stamps: list[int] = []
    for stamp in given:
        # A camera that jitters by less than a fifth of a period keeps its rate.
        if not stamps or stamp - stamps[-1] >= 0.8 * period:
            stamps.append(stamp)
    if len(stamps) < len(given):
        report.note(f"{len(given)} images at a control rate of {profile.control_rate:g} Hz: {len(stamps)} used")
    return stamps


def _actions(
    contents: BagContents,
    profile: RobotProfile,
    kinematics: ArmKinematics,
    motion: CommandedMotion,
    stamps: list[int],
) -> list[Array | None]:
    if not contents.joint_stamps:
        return [None] * len(stamps)
    derive = ActionFromCommands(profile, kinematics)
    order = np.argsort(contents.joint_stamps, kind="stable")
    times = np.asarray(contents.joint_stamps)[order]
    after = np.clip(np.searchsorted(times, stamps), 0, len(order) - 1)
    return [
        derive.action(motion, stamp, contents.joint_states[order[place]][0])
        for stamp, place in zip(stamps, after, strict=True)
    ]


def _clipped(decisions: list[Decision], report: BagReport) -> list[Decision]:
    far = sum(bool((np.abs(decision.action[:3]) > 1.0 + _SLIGHTLY).any()) for decision in decisions)
    if far:
        report.note(f"{far} actions moved farther than ee_delta_scale and were clipped")
    return [
        Decision(item.stamp, np.append(np.clip(item.action[:3], -1.0, 1.0), item.action[3:]), item.instruction)
        for item in decisions
    ]


def _instructions(contents: BagContents, moments: list[int], shift: int) -> list[str]:
    """The instruction in force at each moment (ns); empty before the first."""
    index = in_force([time - shift for time, _ in contents.instructions], moments)
    return [contents.instructions[place][1] if place >= 0 else "" for place in index]
