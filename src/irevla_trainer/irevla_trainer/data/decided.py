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
    texts = _instructions(contents, [log_time for _, log_time in kept])
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
    clock = _Clock(contents.image_times)
    report.note("no /irevla/command: aligned by header stamps, instructions by bag time")
    if clock.differs:
        report.note(
            f"header stamps are of another clock (simulated time, a recording played again?), some "
            f"{clock.latency * 1e-9:.1f} s behind: bag times were read by the images that came with them"
        )
    motion = _motion(contents, profile, report, clock)
    stamps = _control_periods(contents, profile, report)
    actions = _actions(contents, profile, kinematics, motion, stamps)
    without = sum(action is None for action in actions)
    if without:
        report.dropped["no command until the end of the control period"] += without
    texts = _instructions(contents, stamps, clock)
    found = zip(stamps, actions, texts, strict=True)
    decisions = [Decision(stamp, action, text) for stamp, action, text in found if action is not None]
    finite = [decision for decision in decisions if np.isfinite(decision.action).all()]
    if len(finite) < len(decisions):
        report.dropped["action not finite"] += len(decisions) - len(finite)
    decisions = finite
    return _clipped(decisions, report) if profile.action_space == "ee_delta" else decisions


class _Clock:
    """From bag times to the clock of the header stamps.

    Where both are of one clock they are the same. Of a simulation, or of a recording that was played again, they are
    not, and one may run faster than the other: the images, which have both, tell which stamp belongs to a bag time.

    Args:
        image_times: Bag time and header stamp of every image, ns.

    Attributes:
        latency: Bag time minus header stamp of most images, ns.
        differs: Whether the clocks differ.
    """

    def __init__(self, image_times: list[tuple[int, int]]) -> None:
        bag, stamps = np.array(sorted(image_times), dtype=np.int64).T
        self.latency = int(np.median(bag - stamps))
        self.differs = abs(self.latency) > _OTHER_CLOCK
        self._bag, self._stamps = bag, np.maximum.accumulate(stamps)

    def stamp(self, bag_time: int) -> int:
        """The header stamp, ns, of what was received at a bag time."""
        if not self.differs:
            return bag_time
        # From the first of these on, images were received later.
        after = int(np.searchsorted(self._bag, bag_time, side="right"))
        if after == 0:
            return int(self._stamps[0]) - max(int(self._bag[0]) - bag_time, 1)
        if after == len(self._bag):
            return int(self._stamps[-1]) + bag_time - int(self._bag[-1])
        span = int(self._bag[after] - self._bag[after - 1])
        share = (bag_time - int(self._bag[after - 1])) / span
        return int(self._stamps[after - 1]) + int(share * int(self._stamps[after] - self._stamps[after - 1]))


def _motion(contents: BagContents, profile: RobotProfile, report: BagReport, clock: _Clock) -> CommandedMotion:
    motion = CommandedMotion(profile)
    stamped = profile.command.type.endswith("JointTrajectory")
    if not stamped:
        report.note(f"{profile.command.topic} has no stamps: aligned by bag time")
    for message, log_time in contents.motion:
        try:
            (motion.add_trajectory if stamped else motion.add_positions)(message, clock.stamp(log_time))
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


def _instructions(contents: BagContents, moments: list[int], clock: _Clock | None = None) -> list[str]:
    """The instruction in force at each moment (ns, bag time, or of the clock's stamps); empty before the first."""
    index = in_force([clock.stamp(time) if clock else time for time, _ in contents.instructions], moments)
    return [contents.instructions[place][1] if place >= 0 else "" for place in index]
