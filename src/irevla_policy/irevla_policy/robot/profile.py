"""The robot profile: the single contract that policy node, guard, recorder, dataset and simulator read.

One YAML file (`config/robots/NAME.yaml`) names cameras, joints with limits, command interface, control rate, action
space, gripper, home pose and workspace. What is recorded is what was seen and sent, so training and serving cannot
drift apart.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from irevla_policy.robot.camera import Camera
from irevla_policy.robot.urdf import UrdfJoint, read_joints
from irevla_policy.settings import SettingsError, build, place_of, read, setting

ACTION_SPACES = ("ee_delta", "joint_delta", "joint_position", "joint_velocity")
PROPRIOCEPTION = ("ee_position", "joint_positions", "gripper")
COMMAND_TYPES = ("trajectory_msgs/JointTrajectory", "std_msgs/Float64MultiArray")

# A joint position beyond two turns, a speed beyond 8 turns a second or a length beyond 10 m
# is a file written in degrees or millimetres rather than a robot.
LARGEST_ANGLE = 4 * math.pi
_LARGEST_SPEED = 50.0
_ROUNDING = 1e-6
_LARGEST_LENGTH = 10.0


@dataclass(frozen=True)
class Joint:
    """A joint of the arm with the limits that every published command keeps.

    Position and velocity are the URDF's where the file leaves them out, and never wider.
    """

    name: str = setting(doc="Name in joint states, URDF and commands")
    position: tuple[float, float] = setting(
        doc="Lowest and highest position; those of the URDF when left out",
        unit="rad",
        at_least=-LARGEST_ANGLE,
        at_most=LARGEST_ANGLE,
    )
    velocity: float = setting(
        doc="Largest speed; that of the URDF when left out", unit="rad/s", above=0.0, at_most=_LARGEST_SPEED
    )
    acceleration: float = setting(doc="Largest acceleration", unit="rad/s^2", above=0.0, at_most=1000.0)
    jerk: float = setting(
        0.0,
        "Largest jerk on the way to a target, for all joints or none; 0 is none. Stops do not wait for it",
        unit="rad/s^3",
        at_least=0.0,
        at_most=1e6,
    )

    def __post_init__(self) -> None:
        if self.position[0] >= self.position[1]:
            raise SettingsError(
                f"position: the lowest must be below the highest, found {list(self.position)} for joint {self.name!r}"
            )


@dataclass(frozen=True)
class Gripper:
    """The gripper: one command in [-1 (open), 1 (closed)] that travels with the arm's as the last joint."""

    joint: str = setting(doc="Name in joint states and in the command")
    opening: tuple[float, float] = setting(
        (0.0, 0.1), "Joint-state position when closed and when open", unit="m", at_least=-1.0, at_most=1.0
    )
    command: tuple[float, float] = setting(
        (1.0, -1.0),
        "What the controller is sent to close and to open; positions in m for a controller of positions",
        at_least=-1.0,
        at_most=1.0,
    )

    def __post_init__(self) -> None:
        for name in ("opening", "command"):
            closed, opened = getattr(self, name)
            if closed == opened:
                raise SettingsError(f"{name}: closed and open must differ, found {closed:g} for both")

    def sent(self, command: float) -> float:
        """What the controller is sent for a command in [-1 (open), 1 (closed)]."""
        closed, opened = self.command
        return 0.5 * (closed + opened) + 0.5 * (closed - opened) * command

    def meant(self, sent: float) -> float:
        """The command that a controller was sent; beyond [-1, 1] where it was sent more."""
        closed, opened = self.command
        return (sent - 0.5 * (closed + opened)) / (0.5 * (closed - opened))


@dataclass(frozen=True)
class Workspace:
    """Box that the end effector stays in, in the base frame."""

    low: tuple[float, float, float] = setting(
        doc="Lower corner", unit="m", at_least=-_LARGEST_LENGTH, at_most=_LARGEST_LENGTH
    )
    high: tuple[float, float, float] = setting(
        doc="Upper corner", unit="m", at_least=-_LARGEST_LENGTH, at_most=_LARGEST_LENGTH
    )

    def __post_init__(self) -> None:
        if any(low >= high for low, high in zip(self.low, self.high, strict=True)):
            raise SettingsError(f"low must be below high in every axis, found {list(self.low)} and {list(self.high)}")


@dataclass(frozen=True)
class Obstacle:
    """A box that the arm may not touch: on its way home, and with `check_commands` never."""

    name: str = setting(doc="What it is")
    position: tuple[float, float, float] = setting(
        doc="Its middle, in the base frame", unit="m", at_least=-_LARGEST_LENGTH, at_most=_LARGEST_LENGTH
    )
    size: tuple[float, float, float] = setting(doc="Its edges", unit="m", above=0.0, at_most=_LARGEST_LENGTH)


@dataclass(frozen=True)
class CommandInterface:
    """Where the guard sends commands."""

    topic: str = setting(doc="Command topic of the arm's controller; the guard is its only publisher")
    type: str = setting("trajectory_msgs/JointTrajectory", "Message type of the topic", choices=COMMAND_TYPES)


@dataclass(frozen=True)
class Kinematics:
    """The kinematic model."""

    urdf: str = setting(doc="URDF file, absolute or relative to the profile")
    ee_frame: str = setting(doc="Frame of the URDF that `ee_delta` moves and the workspace box bounds")
    faster_than_urdf: bool = setting(False, "Allow joint speeds above the URDF's, for an arm that is only simulated")


@dataclass(frozen=True)
class RobotProfile:
    """Everything that the suite knows about a robot."""

    name: str = setting(doc="Name of the robot, recorded in every episode")
    cameras: tuple[Camera, ...] = setting(doc="Cameras, in the order in which the model sees them")
    joints: tuple[Joint, ...] = setting(doc="Joints of the arm, in the order of states and commands")
    home: tuple[float, ...] = setting(doc="Joint positions at the start of an episode", unit="rad")
    workspace: Workspace = setting(doc="Box that the end effector stays in")
    kinematics: Kinematics = setting(doc="Kinematic model")
    command: CommandInterface = setting(doc="Command interface")
    gripper: Gripper | None = setting(None, "Gripper; leave out for an arm without one")
    obstacles: tuple[Obstacle, ...] = setting((), "What the arm may not touch")
    joint_states_topic: str = setting("/joint_states", "Topic of sensor_msgs/JointState")
    action_space: str = setting("ee_delta", "What the model's action means", choices=ACTION_SPACES)
    ee_delta_scale: float = setting(
        0.04, "Displacement per control period of an ee_delta of 1", unit="m", above=0.0, at_most=0.5
    )
    control_rate: float = setting(20.0, "Decisions of the policy", unit="Hz", above=0.0, at_most=200.0)
    guard_rate: float = setting(80.0, "Commands of the guard", unit="Hz", at_least=50.0, at_most=1000.0)
    stale_timeout: float = setting(0.12, "Oldest camera or joint state to act on", unit="s", above=0.0, at_most=10.0)
    action_timeout: float = setting(
        0.15, "Latest arrival of an action after its observation", unit="s", above=0.0, at_most=10.0
    )
    proprioception: tuple[str, ...] = setting(
        ("ee_position", "gripper"), "What of the joint states the model sees", choices=PROPRIOCEPTION
    )
    require_heartbeat: bool = setting(False, "Hold unless the operator's heartbeat arrives")
    file: str = setting("", "File of the profile (set by the loader)")

    def __post_init__(self) -> None:
        names = self.joint_names
        if not names:
            raise SettingsError("joints: expected at least one")
        if not self.cameras:
            raise SettingsError("cameras: expected at least one")
        cameras, obstacles = ([item.name for item in items] for items in (self.cameras, self.obstacles))
        for what, values in (("joints", list(names)), ("cameras", cameras), ("obstacles", obstacles)):
            doubled = {value for value in values if values.count(value) > 1}
            if doubled:
                raise SettingsError(f"{what}: {sorted(doubled)[0]!r} is named twice")
        if len(self.home) != len(names):
            raise SettingsError(f"home: expected {len(names)} joint positions, found {len(self.home)}")
        for joint, position in zip(self.joints, self.home, strict=True):
            low, high = joint.position
            if not low <= position <= high:
                raise SettingsError(
                    f"home: {position} rad of joint {joint.name!r} is outside its limits [{low:g}, {high:g}] rad"
                )
        if self.gripper and self.gripper.joint in names:
            raise SettingsError(f"gripper: joint {self.gripper.joint!r} is also an arm joint")
        smooth = [joint.jerk > 0.0 for joint in self.joints]
        if any(smooth) and not all(smooth):
            raise SettingsError(
                f"joints[{smooth.index(False)}]: jerk: missing, and joint {names[smooth.index(True)]!r} has one: limit "
                "that of all joints or of none"
            )
        ratio = self.guard_rate / self.control_rate
        if abs(ratio - round(ratio)) > 1e-9:
            raise SettingsError(
                f"guard_rate: must be a whole multiple of control_rate {self.control_rate:g} Hz, "
                f"found {self.guard_rate:g}"
            )

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Names of the arm's joints, in order."""
        return tuple(joint.name for joint in self.joints)

    @property
    def info_topics(self) -> dict[str, str]:
        """Name of a camera to the topic of its sensor_msgs/CameraInfo, which is beside that of its images.

        Cameras that share a namespace have none: it could not be told whose such a message is.
        """
        spaces = [camera.namespace for camera in self.cameras]
        alone = [camera for camera in self.cameras if spaces.count(camera.namespace) == 1]
        return {camera.name: f"{camera.namespace}/camera_info" for camera in alone}

    @property
    def action_dim(self) -> int:
        """Length of an action in `action_space`, gripper included."""
        arm = 3 if self.action_space == "ee_delta" else len(self.joints)
        return arm + (1 if self.gripper else 0)

    @property
    def state_dim(self) -> int:
        """Length of the proprioceptive state that the model sees."""
        sizes = {"ee_position": 3, "joint_positions": len(self.joints), "gripper": 1 if self.gripper else 0}
        return sum(sizes[part] for part in self.proprioception)

    @property
    def substeps(self) -> int:
        """Guard commands in one control period."""
        return round(self.guard_rate / self.control_rate)

    @property
    def urdf_path(self) -> Path:
        """Absolute path of the URDF."""
        path = Path(self.kinematics.urdf)
        return path if path.is_absolute() else Path(self.file).parent / path

    def place(self, keys: str) -> str:
        """File and line where something is set, for errors.

        Args:
            keys: What, e.g. `joints[3]`.
        """
        return f"{place_of(Path(self.file), keys)}: {keys}" if self.file else f"profile {self.name!r}: {keys}"

    @property
    def braking_time(self) -> float:
        """What the slowest joint needs to come to rest from its top speed, s."""
        return max(joint.velocity / joint.acceleration for joint in self.joints)

    @property
    def training_hash(self) -> str:
        """Hash of what makes recorded data comparable: cameras, joints, action space and rates (12 hex digits).

        With `ee_delta` the home pose counts too: the gripper keeps the orientation that it has there.
        """
        gripper = self.gripper
        parts = {
            "cameras": [[c.name, c.width, c.height, c.encoding] for c in self.cameras],
            "joints": list(self.joint_names),
            "gripper": {"joint": gripper.joint, "opening": list(gripper.opening)} if gripper else None,
            "action_space": self.action_space,
            "ee_delta": [self.ee_delta_scale, *self.home] if self.action_space == "ee_delta" else None,
            "control_rate": self.control_rate,
            "proprioception": list(self.proprioception),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def load_profile(name_or_path: str | Path) -> RobotProfile:
    """Load a robot profile.

    Args:
        name_or_path: Path of a YAML file, or the name of a shipped profile (`config/robots/NAME.yaml`).

    Raises:
        SettingsError: No such profile, or its content is wrong; names file, key and allowed values.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        from irevla_policy.paths import config_folder

        folder = config_folder() / "robots"
        path = folder / f"{name_or_path}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
            raise SettingsError(f"no robot profile {str(name_or_path)!r} in {folder}; known: {known}")
    document = read(path)
    joints = _joints_of(document, path)
    if isinstance(document, dict):
        document = _completed(document, joints, path) | {"file": str(path.resolve())}
    profile = build(RobotProfile, document, path)
    check_limits(profile, joints, str(profile.urdf_path))
    return profile


def _joints_of(document: Any, path: Path) -> dict[str, UrdfJoint]:
    """The joints of the profile's URDF; none where there is no such file, which the kinematics complain of."""
    kinematics = document.get("kinematics") if isinstance(document, dict) else None
    urdf = kinematics.get("urdf") if isinstance(kinematics, dict) else None
    file = path.parent / urdf if isinstance(urdf, str) else None
    return read_joints(file) if file is not None and file.is_file() else {}


def _completed(document: dict[str, Any], joints: Mapping[str, UrdfJoint], path: Path) -> dict[str, Any]:
    """The document with the URDF's limits of joints where it gives none."""
    listed = document.get("joints")
    if not isinstance(listed, list):
        return document
    complete = []
    for number, joint in enumerate(listed):
        name = joint.get("name") if isinstance(joint, dict) else None
        if not isinstance(joint, dict) or not isinstance(name, str):
            complete.append(joint)  # which is refused later
            continue
        known = joints.get(name, UrdfJoint(None, None))
        found = {"position": known.position, "velocity": known.velocity}
        missing = [key for key, value in found.items() if key not in joint and value is None]
        if missing:
            keys = f"joints[{number}]"
            what = f"{missing[0]} of joint {name!r} is left out, and the URDF has none"
            raise SettingsError(f"{place_of(path, keys)}: {keys}: {what}")
        complete.append(found | joint)
    return {**document, "joints": complete}


def check_limits(profile: RobotProfile, joints: Mapping[str, UrdfJoint], whose: str) -> None:
    """Refuse limits that are wider than those of a URDF.

    Args:
        profile: Whose limits.
        joints: Of the URDF, by name; joints that are not among them pass.
        whose: What to call the URDF in errors.

    Raises:
        SettingsError: A limit is wider; says which line of which file to change.
    """
    for number, joint in enumerate(profile.joints):
        known, where = joints.get(joint.name), f"joints[{number}]"
        if known is not None and known.position is not None:
            (low, high), (least, most) = joint.position, known.position
            if low < least - _ROUNDING or high > most + _ROUNDING:
                raise SettingsError(
                    f"{profile.place(where)}: limits {list(joint.position)} rad of joint {joint.name!r} are wider than "
                    f"[{least:g}, {most:g}] rad of {whose}"
                )
        if known is None or known.velocity is None or profile.kinematics.faster_than_urdf:
            continue
        if joint.velocity > known.velocity + _ROUNDING:
            raise SettingsError(
                f"{profile.place(where)}: velocity {joint.velocity:g} rad/s of joint {joint.name!r} is above "
                f"{known.velocity:g} rad/s of {whose}"
            )
