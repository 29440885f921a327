"""MoveIt behind the interface of `robot.scene`: its planning scene, and its ways home.

MoveIt is configured by the parameters of the arm's own `move_group`, as `ros2 param dump /move_group` writes them:
robot, semantic description, kinematics and planning pipelines are what the arm's MoveIt package says. Its scene is that
of the running `move_group`, asked for at the start and followed from then on, and the profile's boxes.

moveit_py tells whether something touches, not what: a touch is always the pair `TOUCH`, so that an intervention may
move an arm anywhere that touches something when it starts, until nothing does any more.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from geometry_msgs.msg import Pose

from irevla_policy.errors import UserError
from irevla_policy.robot.collision import CollisionModel
from irevla_policy.robot.homing import Homing
from irevla_policy.robot.profile import Obstacle, RobotProfile
from irevla_policy.robot.scene import Array, HomingError, Motion, Planner, Scene, Touch
from irevla_policy.robot.urdf import root_link
from irevla_policy.settings import setting

if TYPE_CHECKING:
    from moveit.core.planning_scene import PlanningScene
    from moveit.core.robot_model import RobotModel
    from moveit.core.robot_state import RobotState

TOUCH: Touch = ("the arm", "itself or the planning scene")

_FINE = 0.01
"""s between the way-points that MoveIt times; the motion is read off between them."""

_PLANNING_TIME = 2.0  # s
_TIMING_TOLERANCE = 0.01
"""How far MoveIt may leave the way that it has checked, to take its corners without a stop, rad."""

_SCENE_SERVICE, _SCENE_TOPIC = "/get_planning_scene", "/monitored_planning_scene"
"""Where move_group tells its scene, and changes of it."""

_AT_HOME = 1e-3  # rad


@dataclass(frozen=True)
class SceneSettings:
    """Parameters of nodes that check collisions."""

    moveit: str = setting(
        "",
        "Parameters of the arm's move_group (`ros2 param dump /move_group > FILE`): collisions and ways home are "
        "MoveIt's; empty for the URDF's collision shapes and the profile's boxes",
    )
    moveit_group: str = setting("", "MoveIt's planning group of the profile's joints; empty when only one has them all")


class MoveItError(UserError, ValueError):
    """MoveIt is not there, or is not set up for this arm."""


def scene(profile: RobotProfile, settings: SceneSettings) -> Scene:
    """What the arm may not touch, of MoveIt or of Pinocchio.

    Raises:
        UserError: The URDF has no collision shapes; MoveIt is asked for and not there, or not set up for this arm.
    """
    return _MoveIt("irevla_scene", profile, settings) if settings.moveit else CollisionModel(profile)


def planner(profile: RobotProfile, settings: SceneSettings, speed: float, check: bool) -> Planner:
    """Who plans the way home.

    Args:
        profile: The robot.
        settings: Whether that is MoveIt.
        speed: Share of the joints' largest speeds and accelerations that is used, in (0, 1].
        check: Whether the way may touch nothing; MoveIt's never may.

    Raises:
        UserError: As `scene`.
    """
    if settings.moveit:
        return _MoveIt("irevla_planner", profile, settings, speed)
    return Homing(profile, CollisionModel(profile) if check else None, speed)


class _MoveIt:
    """Scene and planner of one `MoveItPy`."""

    def __init__(self, node: str, profile: RobotProfile, settings: SceneSettings, speed: float = 1.0) -> None:
        try:
            from moveit.planning import MoveItPy
        except ImportError as error:
            raise MoveItError(f"moveit: needs moveit_py (package ros-jazzy-moveit-py): {error}") from error
        self._names = list(profile.joint_names)
        self._home = np.array(profile.home)
        self._velocity = speed * np.array([joint.velocity for joint in profile.joints])
        self._acceleration = speed * np.array([joint.acceleration for joint in profile.joints])
        parameters = read_parameters(Path(settings.moveit))
        try:
            self._moveit = MoveItPy(
                node_name=node,
                config_dict=parameters,
                provide_planning_service=False,
                remappings={
                    "joint_states": profile.joint_states_topic,
                    "planning_scene": _SCENE_TOPIC,
                    # What it tells of its own scene is not to be taken for move_group's.
                    "monitored_planning_scene": f"/{node}{_SCENE_TOPIC}",
                },
            )
        except TypeError as error:
            raise MoveItError(f"moveit: needs moveit_py 2.12.3 or later: {str(error).splitlines()[0]}") from error
        self._group = _group(self._moveit.get_robot_model(), profile, settings)
        self._monitor = self._moveit.get_planning_scene_monitor()
        self._profile = profile
        if not self._monitor.request_planning_scene_state(service_name=_SCENE_SERVICE):
            raise MoveItError(f"moveit: {_SCENE_SERVICE} does not answer: is the arm's move_group running?")
        self._add_boxes()

    def _add_boxes(self) -> None:
        from moveit_msgs.msg import CollisionObject
        from shape_msgs.msg import SolidPrimitive

        root = root_link(self._profile.urdf_path)
        with self._monitor.read_write() as planning_scene:
            # As the check of /robot_description has it: the profile's root, or where the robot knows none, its own.
            frame = root if planning_scene.knows_frame_transform(frame_id=root) else planning_scene.planning_frame
            for box in self._profile.obstacles:
                pose = Pose()
                pose.position.x, pose.position.y, pose.position.z = box.position
                pose.orientation.w = 1.0
                found = CollisionObject(id=_id(box), operation=CollisionObject.ADD)
                found.header.frame_id = frame
                found.primitives = [SolidPrimitive(type=SolidPrimitive.BOX, dimensions=list(box.size))]
                found.primitive_poses = [pose]
                planning_scene.apply_collision_object(found)
            planning_scene.current_state.update()

    def _complete(self) -> None:
        """Add the profile's boxes again when a whole scene of move_group's, after a restart, say, came without them."""
        with self._monitor.read_only() as planning_scene:
            complete = all(planning_scene.knows_frame_transform(frame_id=_id(box)) for box in self._profile.obstacles)
        if not complete:
            self._add_boxes()

    def touching(self, joints: Array) -> list[Touch]:
        """See `Scene.touching`."""
        self._complete()
        with self._monitor.read_only() as planning_scene:
            state = self._state(planning_scene, joints)
            touches = planning_scene.is_state_colliding(robot_state=state, joint_model_group_name=self._group)
        return [TOUCH] if touches else []

    def _state(self, planning_scene: PlanningScene, joints: Array) -> RobotState:
        """The scene's state, and what it holds, with the arm elsewhere."""
        state = copy.copy(planning_scene.current_state)
        state.joint_positions = dict(zip(self._names, joints.tolist(), strict=True))
        state.update()
        return state

    def plan(self, start: Array, period: float) -> Motion:
        """See `Planner.plan`."""
        if np.abs(start - self._home).max() < _AT_HOME:
            return Motion(self._home[None])
        self._complete()
        component = self._moveit.get_planning_component(self._group)
        with self._monitor.read_only() as planning_scene:
            begin, goal = (self._state(planning_scene, joints) for joints in (start, self._home))
        component.set_start_state(robot_state=begin)
        component.set_goal_state(robot_state=goal)
        found = component.plan()
        if not found:
            raise HomingError(f"no free way home: MoveIt's error code {found.error_code.val}; move the arm by hand")
        way = found.trajectory
        timed = way.apply_totg_time_parameterization(
            velocity_scaling_factor=1.0,
            acceleration_scaling_factor=1.0,
            path_tolerance=_TIMING_TOLERANCE,
            resample_dt=_FINE,
        )
        if not timed:
            raise HomingError("no free way home: MoveIt's way cannot be timed")
        times = np.cumsum(way.get_waypoint_durations())
        points = np.array([[state.joint_positions[name] for name in self._names] for state in way])
        motion = self._slowed(times, points, period)
        # MoveIt has checked the way before it was timed, and not what lies between the positions that are sent.
        between = 0.5 * (motion[:-1] + motion[1:])
        if any(self.touching(row) for row in (*motion, *between)):
            raise HomingError("no free way home: MoveIt's touches something once it is timed; move the arm by hand")
        return Motion(motion)

    def _slowed(self, times: Array, points: Array, period: float) -> Array:
        """A motion that keeps MoveIt's limits, stretched in time until it keeps the profile's, `[k, n]`."""
        velocity = np.gradient(points, times, axis=0)
        acceleration = np.gradient(velocity, times, axis=0)
        share = np.abs(velocity / self._velocity).max()
        stretch = max(1.0, share, np.sqrt(np.abs(acceleration / self._acceleration).max()))
        instants = np.arange(1, int(np.ceil(stretch * times[-1] / period)) + 1) * period
        motion = np.array([np.interp(instants / stretch, times, joint) for joint in points.T]).T
        motion[-1] = self._home
        return motion


def _id(box: Obstacle) -> str:
    """An id in the planning scene that nobody else's object, link or frame has."""
    return f"irevla_{box.name}"


def read_parameters(path: Path) -> dict[str, Any]:
    """The parameters of a dumped `move_group`, as MoveItPy wants them.

    Args:
        path: What `ros2 param dump /move_group` has written.

    Raises:
        MoveItError: There is no such file, or it is none of move_group's.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise MoveItError(f"moveit: {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MoveItError(f"moveit: {path}: not readable YAML: {' '.join(str(error).split())}") from error
    how = "expected what `ros2 param dump /move_group` writes"
    nodes = list(document.values()) if isinstance(document, dict) else []
    if len(nodes) != 1 or not isinstance(nodes[0], dict) or not isinstance(nodes[0].get("ros__parameters"), dict):
        raise MoveItError(f"moveit: {path}: {how}, one node with `ros__parameters`")
    found = dict(nodes[0]["ros__parameters"])
    for name in ("robot_description", "robot_description_semantic"):
        if not isinstance(found.get(name), str):
            raise MoveItError(f"moveit: {path}: has no parameter {name!r}; {how}")
    for name in ("publish_planning_scene", "publish_geometry_updates"):
        if found.get(name) is not True:
            raise MoveItError(
                f"moveit: {path}: {name} is not true: start move_group with it, so that changes of its scene are known"
            )
    pipelines = found.get("planning_pipelines")
    names = pipelines.get("pipeline_names") if isinstance(pipelines, dict) else pipelines
    if not isinstance(names, list) or not names:
        raise MoveItError(f"moveit: {path}: names no planning pipeline in `planning_pipelines`; {how}")
    wanted = found.get("default_planning_pipeline")
    found["planning_pipelines"] = {"pipeline_names": names}
    found["plan_request_params"] = {
        "planning_pipeline": wanted if wanted in names else names[0],
        "planning_time": _PLANNING_TIME,
        "planning_attempts": 1,
        "max_velocity_scaling_factor": 1.0,
        "max_acceleration_scaling_factor": 1.0,
    }
    return found


def _group(model: RobotModel, profile: RobotProfile, settings: SceneSettings) -> str:
    """The planning group that has the profile's joints and no others."""
    groups = {name: model.get_joint_model_group(name) for name in model.joint_model_group_names}
    joints = {name: sorted(group.active_joint_model_names) for name, group in groups.items()}
    fitting = [name for name, names in joints.items() if names == sorted(profile.joint_names)]
    listed = "; ".join(f"{name}: {', '.join(names)}" for name, names in joints.items())
    if settings.moveit_group:
        if settings.moveit_group not in fitting:
            raise MoveItError(
                f"moveit_group {settings.moveit_group!r}: expected a group of the joints of profile {profile.name!r} "
                f"({', '.join(profile.joint_names)}); MoveIt knows {listed}"
            )
        return settings.moveit_group
    if len(fitting) != 1:
        raise MoveItError(
            f"moveit: {len(fitting)} planning groups have the joints of profile {profile.name!r} and no others, "
            f"expected one; name it with moveit_group. MoveIt knows {listed}"
        )
    return fitting[0]
