"""The tabletop for Gazebo: world, robot, controllers and bridge, all written from what MuJoCo simulates.

    files = write_gazebo(Path("gazebo"), load_profile("panda"), load_tasks("tabletop"), "pick-carrot", seed=3)

What stands where is decided by task and seed as in the world `tabletop`. The robot is the profile's URDF with what a
simulation needs beside it: masses, looks, fingers, the cameras that it carries, and ros2_control.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import mujoco
import numpy as np
import yaml

from irevla_policy.errors import UserError
from irevla_policy.robot.camera import Camera
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.sim.franka import BASE, FINGER_OPENING, FINGERS, PHYSICS_RATE, TOOL
from irevla_policy.sim.sdf import add_inertial, camera_sensor, geoms_of, is_seen, is_solid, world_sdf
from irevla_policy.sim.tabletop import tabletop_scene
from irevla_policy.sim.tasks import TaskFile
from irevla_policy.sim.urdf import numbers, roll_pitch_yaw

WORLD = "tabletop"
"""Name of the world in Gazebo."""

CONTROLLERS = {
    "trajectory_msgs/JointTrajectory": "joint_trajectory_controller/JointTrajectoryController",
    "std_msgs/Float64MultiArray": "forward_command_controller/ForwardCommandController",
}
"""Type of the profile's command to the controller that follows it."""

BROADCASTER = "joint_state_broadcaster"

_FINGER_SPEED, _FINGER_FORCE = 0.2, 20.0  # m/s, N
_FOLLOWS = 25.0
"""How fast gz_ros2_control drives a joint to its setpoint, 1/s: a joint is then as far behind as in MuJoCo."""


@dataclass(frozen=True)
class GazeboFiles:
    """What was written.

    Attributes:
        world: The SDF world.
        robot: The robot's URDF.
        controllers: Parameters of ros2_control.
        bridge: Topics of ros_gz_bridge.
        controller: Name of the controller that the guard commands.
    """

    world: Path
    robot: Path
    controllers: Path
    bridge: Path
    controller: str


def write_gazebo(folder: Path | None, profile: RobotProfile, tasks: TaskFile, task: str, seed: int) -> GazeboFiles:
    """Write the files of a task.

    Args:
        folder: Where to; made when it is not there. None makes a temporary one, which stays.
        profile: A Panda profile.
        tasks: A task file of the tabletop.
        task: Which task's things stand on the table.
        seed: Where.

    Raises:
        UserError: The task file is of another world; the tabletop cannot simulate the robot; the profile's command
            topic does not begin with the name of a controller.
    """
    if tasks.world != WORLD:
        raise UserError(f"tasks: Gazebo has those of the tabletop only, found those of world {tasks.world!r}")
    scene, spec = tabletop_scene(profile, tasks, task, seed)
    controller, _, rest = profile.command.topic.strip("/").partition("/")
    if not rest:
        raise UserError(
            f"{profile.place('command: topic')}: expected /CONTROLLER/..., as topics of ros2_control begin with the "
            f"name of their controller, found {profile.command.topic!r}"
        )
    place = Path(tempfile.mkdtemp(prefix="irevla-gazebo-")) if folder is None else folder
    place.mkdir(parents=True, exist_ok=True)
    place = place.absolute()
    files = GazeboFiles(
        place / "world.sdf", place / "robot.urdf", place / "controllers.yaml", place / "bridge.yaml", controller
    )
    model = scene.model
    standing, carried = _cameras(profile, model)
    _write_xml(files.world, world_sdf(model, scene.data, WORLD, [BASE], standing))
    _write_xml(files.robot, _robot(profile, spec, model, carried, files.controllers))
    _write_yaml(files.controllers, _controllers(profile, controller))
    _write_yaml(files.bridge, _bridge(profile))
    return files


def _cameras(profile: RobotProfile, model: mujoco.MjModel) -> tuple[dict[str, Camera], dict[str, Camera]]:
    """The cameras that stand in the world, and those that the robot carries."""
    named = {camera.name: camera for camera in profile.cameras}
    standing = {name: camera for name, camera in named.items() if int(model.cam_bodyid[model.camera(name).id]) == 0}
    return standing, {name: camera for name, camera in named.items() if name not in standing}


def _robot(
    profile: RobotProfile, spec: mujoco.MjSpec, model: mujoco.MjModel, cameras: dict[str, Camera], controllers: Path
) -> ElementTree.Element:
    """The profile's URDF with all that a simulation needs."""
    root = ElementTree.parse(profile.urdf_path).getroot()
    bodies = {model.body(number).name: number for number in range(model.nbody)}
    for link in root.findall("link"):
        if (body := bodies.get(link.get("name", ""))) is not None:
            add_inertial(link, model, body, urdf=True)
            _add_visuals(link, spec, model, body)
        if link.get("name") == TOOL:
            # The guard's model of a gripper, open or shut, is one box around both fingers. Here they are themselves.
            for box in link.findall("collision"):
                link.remove(box)
    for number, name in enumerate(FINGERS):
        _add_finger(root, model, name, mimics=FINGERS[0] if number else None)
    for name, camera in cameras.items():
        number = model.camera(name).id
        holder = _add(root, "gazebo", reference=model.body(int(model.cam_bodyid[number])).name)
        # A link without a mass is merged into the one that it is fixed to; its sensors go with it.
        holder.append(camera_sensor(model, number, camera, pose=True))
    control = _add(root, "ros2_control", name="gazebo", type="system")
    _add(_add(control, "hardware"), "plugin", "gz_ros2_control/GazeboSimSystem")
    starts = dict(zip(profile.joint_names, profile.home, strict=True)) | dict.fromkeys(FINGERS, FINGER_OPENING)
    for name, start in starts.items():
        joint = _add(control, "joint", name=name)
        if name != FINGERS[1]:
            _add(joint, "command_interface", name="position")
        _add(_add(joint, "state_interface", name="position"), "param", repr(float(start)), name="initial_value")
        _add(joint, "state_interface", name="velocity")
    plugin = _add(
        _add(root, "gazebo"),
        "plugin",
        filename="gz_ros2_control-system",
        name="gz_ros2_control::GazeboSimROS2ControlPlugin",
    )
    _add(plugin, "parameters", str(controllers))
    _add(plugin, "position_proportional_gain", repr(_FOLLOWS / PHYSICS_RATE))
    ElementTree.indent(root)
    return root


def _add_visuals(link: ElementTree.Element, spec: mujoco.MjSpec, model: mujoco.MjModel, body: int) -> None:
    """The meshes of a body, as the files that MuJoCo read."""
    for geom in geoms_of(model, body):
        mesh = int(model.geom_dataid[geom])
        if not is_seen(model, geom) or mesh < 0:
            continue
        # MuJoCo moves a mesh to its principal axes; the file has it where it was.
        rotation, back, offset = np.empty(4), np.empty(4), np.empty(3)
        mujoco.mju_negQuat(back, model.mesh_quat[mesh])
        mujoco.mju_mulQuat(rotation, model.geom_quat[geom], back)
        mujoco.mju_rotVecQuat(offset, model.mesh_pos[mesh], rotation)
        visual = _add(link, "visual")
        _add(visual, "origin", xyz=numbers(model.geom_pos[geom] - offset), rpy=numbers(roll_pitch_yaw(rotation)))
        file = Path(spec.modelfiledir, spec.meshdir, spec.meshes[mesh].file).resolve()
        _add(_add(visual, "geometry"), "mesh", filename=file.as_uri(), scale=numbers(model.mesh_scale[mesh]))
        _add_colour(visual, model, geom)


def _add_finger(root: ElementTree.Element, model: mujoco.MjModel, name: str, mimics: str | None) -> None:
    number = model.joint(name).id
    body = int(model.jnt_bodyid[number])
    link = _add(root, "link", name=model.body(body).name)
    add_inertial(link, model, body, urdf=True)
    for geom in geoms_of(model, body):
        for tag, wanted in (("visual", is_seen), ("collision", is_solid)):
            if wanted(model, geom):
                shape = _add(link, tag)
                place = model.geom_pos[geom], roll_pitch_yaw(model.geom_quat[geom])
                _add(shape, "origin", xyz=numbers(place[0]), rpy=numbers(place[1]))
                _add(_add(shape, "geometry"), "box", size=numbers(2.0 * model.geom_size[geom]))
                if tag == "visual":
                    _add_colour(shape, model, geom)
    surface = _add(root, "gazebo", reference=model.body(body).name)
    friction = float(model.geom_friction[geoms_of(model, body)[0], 0])
    _add(surface, "mu1", repr(friction))
    _add(surface, "mu2", repr(friction))
    joint = _add(root, "joint", name=name, type="prismatic")
    _add(joint, "parent", link=model.body(int(model.body_parentid[body])).name)
    _add(joint, "child", link=model.body(body).name)
    turn = roll_pitch_yaw(model.body_quat[body])
    _add(joint, "origin", xyz=numbers(model.body_pos[body]), rpy=numbers(turn))
    _add(joint, "axis", xyz=numbers(model.jnt_axis[number]))
    low, high = (repr(float(value)) for value in model.jnt_range[number])
    _add(joint, "limit", lower=low, upper=high, velocity=repr(_FINGER_SPEED), effort=repr(_FINGER_FORCE))
    if mimics:
        _add(joint, "mimic", joint=mimics)


def _add_colour(visual: ElementTree.Element, model: mujoco.MjModel, geom: int) -> None:
    rgba = numbers(model.geom_rgba[geom].astype(float).round(4))
    _add(_add(visual, "material", name=rgba.replace(" ", "_")), "color", rgba=rgba)


def _controllers(profile: RobotProfile, controller: str) -> dict[str, Any]:
    joints = [*profile.joint_names, *([profile.gripper.joint] if profile.gripper else [])]
    if profile.command.type == "trajectory_msgs/JointTrajectory":
        settings = {
            "joints": joints,
            "command_interfaces": ["position"],
            "state_interfaces": ["position", "velocity"],
            # Setpoints come with velocities, so that the arm passes through them; the next point starts from the last.
            "allow_nonzero_velocity_at_trajectory_end": True,
            "open_loop_control": True,
        }
    else:
        settings = {"joints": joints, "interface_name": "position"}
    manager = {
        "update_rate": round(PHYSICS_RATE),
        BROADCASTER: {"type": "joint_state_broadcaster/JointStateBroadcaster"},
        controller: {"type": CONTROLLERS[profile.command.type]},
    }
    return {
        "controller_manager": {"ros__parameters": manager},
        controller: {"ros__parameters": settings},
    }


def _bridge(profile: RobotProfile) -> list[dict[str, str]]:
    topics = [("/clock", "rosgraph_msgs/msg/Clock", "gz.msgs.Clock")]
    topics += [(camera.topic, "sensor_msgs/msg/Image", "gz.msgs.Image") for camera in profile.cameras]
    # Gazebo, too, publishes the calibration beside the images.
    topics += [(topic, "sensor_msgs/msg/CameraInfo", "gz.msgs.CameraInfo") for topic in profile.info_topics.values()]
    return [
        {
            "ros_topic_name": topic,
            "gz_topic_name": topic,
            "ros_type_name": ros,
            "gz_type_name": gazebo,
            "direction": "GZ_TO_ROS",
        }
        for topic, ros, gazebo in topics
    ]


def _write_xml(path: Path, root: ElementTree.Element) -> None:
    ElementTree.ElementTree(root).write(path, encoding="unicode", xml_declaration=True)


def _write_yaml(path: Path, value: object) -> None:
    path.write_text(yaml.safe_dump(value, sort_keys=False))


def _add(parent: ElementTree.Element, tag: str, text: str | None = None, **attributes: str) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, tag, attributes)
    element.text = text
    return element
