"""Random and adversarial actions through the command path, every command of which is checked by other means.

Actions go through the policy node's mapper, or straight to the guard as those of a policy that has gone mad. What comes
out is checked by finite differences and by forward kinematics that are read from the URDF here, without Pinocchio.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from irevla_policy.robot.action import ActionError, ActionMapper
from irevla_policy.robot.collision import CollisionModel
from irevla_policy.robot.decision import Decision
from irevla_policy.robot.guard import GuardCore
from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.limits import LIMITED_COLLISION, Setpoint
from irevla_policy.robot.profile import RobotProfile, load_profile
from irevla_policy.robot.proposal import Proposal
from irevla_policy.robot.scene import MeasuredScene, Scene

Array = npt.NDArray[np.float64]

_SORTIE = 40
"""Actions of one kind in a row, at most."""

_TOLERANCE = 1e-7
"""Rounding of finite differences, relative to a limit; of positions, rad and m."""


@dataclass
class Account:
    """What came of a campaign.

    Attributes:
        actions: How many were proposed, by kind.
        refused: How many of them never reached the robot.
        commands: Setpoints that were sent.
        moving: How many of them moved.
        violations: Setpoints outside a limit, by the limit.
        worst: Limit to the largest share of it that was used, 1 for all of it.
        collision_checks: What checking a command for collisions has cost, s.
        kept_off: How many commands were changed so that nothing is touched.
    """

    actions: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    commands: int = 0
    moving: int = 0
    violations: Counter[str] = field(default_factory=Counter)
    worst: dict[str, float] = field(default_factory=dict)
    collision_checks: list[float] = field(default_factory=list)
    kept_off: int = 0

    def add(self, other: Account) -> None:
        """Take in another campaign's."""
        self.actions += other.actions
        self.refused += other.refused
        self.commands += other.commands
        self.moving += other.moving
        self.violations += other.violations
        self.collision_checks += other.collision_checks
        self.kept_off += other.kept_off
        for limit, share in other.worst.items():
            self.worst[limit] = max(share, self.worst.get(limit, 0.0))


class Checker:
    """Checks commands against profile and URDF.

    Args:
        profile: The robot.
        start: Joint positions that the arm is at rest at before the first command, rad, `[n]`.
        scene: What may not be touched; None for anything.
    """

    def __init__(self, profile: RobotProfile, start: Array, scene: Scene | None = None) -> None:
        self._scene = scene
        self._dt = 1.0 / profile.guard_rate
        self._chain = Chain(profile)
        self._low = np.array([joint.position[0] for joint in profile.joints])
        self._high = np.array([joint.position[1] for joint in profile.joints])
        self._velocity = np.array([joint.velocity for joint in profile.joints])
        self._acceleration = np.array([joint.acceleration for joint in profile.joints])
        self._box = np.array([profile.workspace.low, profile.workspace.high])
        self._before = np.array([start, start])

    def follow(self, setpoints: list[Setpoint]) -> None:
        """Take two setpoints as what was sent before, unchecked."""
        self._before = np.array([setpoint.position for setpoint in setpoints])

    def check(self, setpoints: list[Setpoint], account: Account) -> None:
        """Count setpoints that follow those of the call before."""
        if not setpoints:
            return
        positions = np.array([setpoint.position for setpoint in setpoints])
        told = np.array([setpoint.velocity for setpoint in setpoints])
        path = np.vstack((self._before, positions))
        velocity = np.diff(path, axis=0) / self._dt
        acceleration = np.diff(velocity, axis=0) / self._dt
        hand = self._chain.position(positions)
        middle, half = 0.5 * (self._low + self._high), 0.5 * (self._high - self._low)
        centre, size = self._box.mean(axis=0), 0.5 * (self._box[1] - self._box[0])
        shares = {
            "finite": np.where(np.isfinite(positions).all(axis=1), 0.0, np.inf),
            "position": (np.abs(positions - middle) / half).max(axis=1),
            "velocity": (np.abs(velocity[1:]) / self._velocity).max(axis=1),
            "told_velocity": (np.abs(told - velocity[1:]) / self._velocity).max(axis=1),
            "acceleration": (np.abs(acceleration) / self._acceleration).max(axis=1),
            "workspace": (np.abs(hand - centre) / size).max(axis=1),
        }
        allowed = {"told_velocity": 1e-6}
        for limit, share in shares.items():
            worst = float(share.max())
            account.worst[limit] = max(worst, account.worst.get(limit, 0.0))
            # The negation counts what is not a number.
            account.violations[limit] += int(np.sum(~(share <= allowed.get(limit, 1.0 + _TOLERANCE))))
        if self._scene is not None:
            account.violations["collision"] += sum(bool(self._scene.touching(row)) for row in positions)
        account.commands += len(positions)
        account.moving += int(np.any(velocity[1:] != 0.0, axis=1).sum())
        self._before = path[-2:]


class Chain:
    """Forward kinematics of the profile's arm, from its URDF.

    Args:
        profile: The robot; other joints of the chain must be fixed.
    """

    def __init__(self, profile: RobotProfile) -> None:
        root = ElementTree.parse(profile.urdf_path).getroot()
        carried = {_of(joint, "child", "link"): joint for joint in root.iter("joint")}
        self._steps: list[tuple[Array, int, Array]] = []
        link = profile.kinematics.ee_frame
        while link in carried:
            joint = carried[link]
            place = profile.joint_names.index(joint.get("name", "")) if joint.get("type") != "fixed" else -1
            axis = np.array(_of(joint, "axis", "xyz", "1 0 0").split(), dtype=np.float64)
            self._steps.append((_origin(joint), place, axis / np.linalg.norm(axis)))
            link = _of(joint, "parent", "link")
        self._steps.reverse()

    def position(self, joints: Array) -> Array:
        """Joint positions, rad, `[k, n]`, to positions of the end effector in the root's frame, m, `[k, 3]`."""
        frames = np.tile(np.eye(4), (len(joints), 1, 1))
        for origin, place, axis in self._steps:
            frames = frames @ origin
            if place >= 0:
                turn = np.tile(np.eye(4), (len(joints), 1, 1))
                turn[:, :3, :3] = _rotations(axis, joints[:, place])
                frames = frames @ turn
        return frames[:, :3, 3]


def _of(joint: ElementTree.Element, tag: str, attribute: str, default: str = "") -> str:
    found = joint.find(tag)
    return default if found is None else found.get(attribute, default)


def _origin(joint: ElementTree.Element) -> Array:
    frame = np.eye(4)
    frame[:3, 3] = [float(value) for value in _of(joint, "origin", "xyz", "0 0 0").split()]
    roll, pitch, yaw = (float(value) for value in _of(joint, "origin", "rpy", "0 0 0").split())
    x, y, z = np.eye(3)
    one = [_rotations(axis, np.array([angle]))[0] for axis, angle in ((z, yaw), (y, pitch), (x, roll))]
    frame[:3, :3] = one[0] @ one[1] @ one[2]
    return frame


def _rotations(axis: Array, angles: Array) -> Array:
    """Rodrigues' formula, `[k, 3, 3]`."""
    cross = np.cross(np.eye(3), axis)  # times v: axis x v
    sin, cos = np.sin(angles)[:, None, None], np.cos(angles)[:, None, None]
    return np.eye(3) + sin * cross + (1.0 - cos) * (cross @ cross)


class Attacker:
    """Proposes actions, of one kind for a while and then of another.

    Args:
        profile: The robot.
        random: What is drawn.
    """

    def __init__(self, profile: RobotProfile, random: np.random.Generator) -> None:
        self._profile, self._random = profile, random
        self._low = np.array([joint.position[0] for joint in profile.joints])
        self._high = np.array([joint.position[1] for joint in profile.joints])
        self._kinds: dict[str, Callable[[], Callable[[], Array]]] = {
            "random": lambda: lambda: random.uniform(-1.0, 1.0, profile.action_dim),
            "jumps": lambda: lambda: random.choice([-1.0, 1.0], profile.action_dim),
            "riding": self._riding,
            "enormous": lambda: lambda: random.normal(size=profile.action_dim) * 10.0 ** random.uniform(1, 300),
            "not finite": self._broken,
            "wrong size": lambda: lambda: random.uniform(-1.0, 1.0, int(random.integers(0, 12))),
        }
        self._mad: dict[str, Callable[[], Callable[[], Array]]] = {
            "targets": lambda: self._target,
            "far target": self._far_target,
            "targets on limits": lambda: lambda: np.where(random.random(len(self._low)) < 0.5, self._low, self._high),
            "targets outside": lambda: lambda: self._target() + random.normal(size=len(self._low)) * 3.0,
            "targets not finite": lambda: lambda: self._spoiled(self._target()),
        }

    def _riding(self) -> Callable[[], Array]:
        action = self._random.choice([-1.0, 0.0, 1.0], self._profile.action_dim)
        return lambda: action

    def _broken(self) -> Callable[[], Array]:
        return lambda: self._spoiled(self._random.uniform(-1.0, 1.0, self._profile.action_dim))

    def _spoiled(self, values: Array) -> Array:
        spoiled = values.copy()
        spoiled[self._random.integers(len(values))] = self._random.choice([np.nan, np.inf, -np.inf])
        return spoiled

    def _target(self) -> Array:
        return self._random.uniform(self._low, self._high)

    def _far_target(self) -> Callable[[], Array]:
        target = self._target()
        return lambda: target

    def sorties(self) -> Iterator[tuple[str, bool, Callable[[], Array], int]]:
        """Kind, whether it goes past the mapper as joint targets, what draws an action, and how many there are."""
        random = self._random
        while True:
            mad = bool(random.random() < 0.4)
            kinds = self._mad if mad else self._kinds
            kind = str(random.choice(list(kinds)))
            yield kind, mad, kinds[kind](), int(random.integers(1, _SORTIE))


def campaign(robot: str, collisions: bool, actions: int, seed: int) -> Account:
    """Propose actions to a guard of its own and check what it sends.

    Args:
        robot: Profile, name or file.
        collisions: Whether commands are checked for collisions, too.
        actions: How many.
        seed: Of everything that is drawn.
    """
    return _Campaign(load_profile(robot), collisions, np.random.default_rng(seed)).run(actions)


class _Campaign:
    """A simulated arm that follows its commands at once, its sensors on time, and a clock of its own."""

    def __init__(self, profile: RobotProfile, collisions: bool, random: np.random.Generator) -> None:
        self.profile, self.random = profile, random
        kinematics = ArmKinematics(profile)
        self.scene = MeasuredScene(CollisionModel(profile)) if collisions else None
        self.core = GuardCore(profile, kinematics, scene=self.scene)
        self.mapper = ActionMapper(profile, kinematics)
        self.measured = np.array(profile.home)
        self.checker = Checker(profile, self.measured, CollisionModel(profile) if collisions else None)
        self.account = Account()
        self.attacker = Attacker(profile, random)
        self.now, self.dt = 100.0, 1.0 / profile.guard_rate
        self.core.activate()
        self.core.on_instruction("pick up the red block")

    def run(self, actions: int) -> Account:
        sorties, done = self.attacker.sorties(), 0
        while done < actions:
            kind, mad, draw, number = next(sorties)
            for _ in range(min(number, actions - done)):
                self.account.actions[kind] += 1
                done += 1
                if not self._propose(draw(), mad):
                    self.account.refused[kind] += 1
                self._tick(int(self.random.integers(1, self.profile.substeps + 1)))
            self._between()
        return self.account

    def _propose(self, values: Array, mad: bool) -> bool:
        profile, random = self.profile, self.random
        names, gripper = profile.joint_names, float(random.uniform(-1.0, 1.0))
        if mad:
            target, action = values, np.zeros(profile.action_dim)
            if random.random() < 0.05:  # names that are missing, doubled, or in another order
                names = tuple(random.choice(names, len(names), replace=bool(random.random() < 0.5)))
            if random.random() < 0.05:
                gripper = float(random.choice([np.nan, np.inf, 7.0]))
        else:
            try:
                target, gripper = self.mapper.target(self.measured, values)
            except ActionError:
                return False
            action = values
        stamp = round(self.now * 1e9) if random.random() < 0.98 else int(random.integers(0, 2**62))
        age = float(random.exponential(0.02)) if random.random() < 0.98 else float(random.normal() * 10.0)
        proposal = Proposal(
            stamp, tuple(action.tolist()), names, tuple(np.asarray(target).tolist()), gripper, "0123456789ab"
        )
        receive = self.core.on_action if random.random() < 0.9 else self.core.on_intervention
        return receive(proposal, self.now, age)

    def _tick(self, ticks: int, sensors: bool = True) -> None:
        sent: list[Setpoint] = []
        for _ in range(ticks):
            self.now += self.dt
            if sensors:
                stamp = round(self.now * 1e9)
                for camera in self.profile.cameras:
                    self.core.on_camera(camera.name, self.now, stamp)
                self.core.on_joint_states(self.measured, 0.02, self.now, stamp)
            decision: Decision | None = self.core.tick(self.now)
            if self.scene is not None and (spent := self.scene.command_sent()):
                self.account.collision_checks.append(spent)
            if decision is not None:
                sent += decision.setpoints
                self.account.kept_off += bool(decision.limited & LIMITED_COLLISION)
                self.measured = decision.setpoints[-1].position
                if not -1.0 <= decision.gripper <= 1.0:
                    self.account.violations["gripper"] += 1
        self.checker.check(sent, self.account)

    def _between(self) -> None:
        """What happens to a robot between two kinds of actions: nothing, silence, blindness, a stop."""
        what = self.random.random()
        if what < 0.1:
            self._tick(int(self.random.integers(1, 40)))
        elif what < 0.15:
            self._tick(int(self.random.integers(1, 40)), sensors=False)
        elif what < 0.2:
            self.core.estop()
            self._tick(int(self.random.integers(1, 40)))
            self.core.clear_estop()
        if self.random.random() < 0.2:
            self.mapper.reset()
