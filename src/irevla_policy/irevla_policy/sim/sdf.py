"""A MuJoCo scene as an SDF world for Gazebo: the same shapes, masses, joints and cameras."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

import mujoco
import numpy as np

from irevla_policy.robot.camera import Camera
from irevla_policy.sim.urdf import numbers, roll_pitch_yaw

SYSTEMS = {
    "gz-sim-physics-system": "gz::sim::systems::Physics",
    "gz-sim-user-commands-system": "gz::sim::systems::UserCommands",
    "gz-sim-scene-broadcaster-system": "gz::sim::systems::SceneBroadcaster",
    "gz-sim-sensors-system": "gz::sim::systems::Sensors",
}
"""Plugins of the world: library to class."""

_GEOM = mujoco.mjtGeom
_LOOKS_AHEAD = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [-1.0, 0.0, 0.0]])
"""Rotation from SDF's camera (x ahead, z up) to MuJoCo's (-z ahead, y up)."""


def world_sdf(
    model: mujoco.MjModel, data: mujoco.MjData, name: str, without: Sequence[str], cameras: Mapping[str, Camera]
) -> ElementTree.Element:
    """The scene as an SDF document.

    Every body that stands in the world becomes a model with a link for itself and for each body that hangs on it. A
    body without any joint is static.

    Args:
        model: The compiled scene.
        data: Its state: where the bodies are.
        name: Of the world.
        without: Bodies that are left out, with the whole of what they are part of: the robot.
        cameras: The scene's cameras that stand still, by name there.

    Returns:
        The root element.

    Raises:
        ValueError: A shape has no counterpart.
    """
    root = ElementTree.Element("sdf", version="1.9")
    world = _add(root, "world", name=name)
    physics = _add(world, "physics", name="physics", type="ode")  # Gazebo takes DART, whatever is said here
    _add(physics, "max_step_size", repr(float(model.opt.timestep)))
    _add(physics, "real_time_factor", "1.0")
    _add(world, "gravity", numbers(model.opt.gravity))
    for library, system in SYSTEMS.items():
        plugin = _add(world, "plugin", filename=library, name=system)
        if system.endswith("Sensors"):
            _add(plugin, "render_engine", "ogre2")
    scene = _add(world, "scene")
    _add(scene, "ambient", numbers([*model.vis.headlight.ambient, 1.0]))
    _add(scene, "background", "0 0 0 1")
    _add(scene, "shadows", "false")
    _add(scene, "grid", "false")
    for number in range(model.nlight):
        light = _add(world, "light", name=f"light{number}", type="directional")
        _add(light, "pose", numbers([*model.light_pos[number], 0.0, 0.0, 0.0]))
        _add(light, "diffuse", numbers([*model.light_diffuse[number], 1.0]))
        _add(light, "direction", numbers(model.light_dir[number]))
        _add(light, "cast_shadows", "false")
    left_out = {int(model.body_rootid[model.body(body).id]) for body in without}
    for body in range(1, model.nbody):
        if int(model.body_parentid[body]) == 0 and body not in left_out:
            world.append(_model(model, data, body))
    for camera_name, camera in cameras.items():
        number = model.camera(camera_name).id
        holder = _add(world, "model", name=f"{camera_name}_camera")
        _add(holder, "static", "true")
        _add(holder, "pose", _pose(model.cam_pos[number], _camera_rotation(model, number)))
        _add(holder, "link", name="link").append(camera_sensor(model, number, camera))
    ElementTree.indent(root)
    return root


def camera_sensor(model: mujoco.MjModel, number: int, camera: Camera, pose: bool = False) -> ElementTree.Element:
    """A camera of the scene as a sensor that publishes the profile's topic.

    Args:
        model: The compiled scene.
        number: Of the camera there.
        camera: What is expected of it.
        pose: Whether the sensor says where it is on its body; otherwise it is where its link is.
    """
    sensor = ElementTree.Element("sensor", name=camera.name, type="camera")
    if pose:
        _add(sensor, "pose", _pose(model.cam_pos[number], _camera_rotation(model, number)))
    _add(sensor, "topic", camera.topic.lstrip("/"))
    _add(sensor, "update_rate", repr(camera.rate))
    _add(sensor, "always_on", "true")
    lens = _add(sensor, "camera")
    vertical = math.radians(float(model.cam_fovy[number]))
    horizontal = 2.0 * math.atan(math.tan(0.5 * vertical) * camera.width / camera.height)
    _add(lens, "horizontal_fov", repr(round(horizontal, 9)))
    # What Gazebo writes into the headers of images and camera_info.
    _add(lens, "optical_frame_id", camera.optical_frame)
    image = _add(lens, "image")
    _add(image, "width", str(camera.width))
    _add(image, "height", str(camera.height))
    _add(image, "format", "R8G8B8")
    clip = _add(lens, "clip")
    _add(clip, "near", "0.01")
    _add(clip, "far", "10.0")
    return sensor


def add_inertial(link: ElementTree.Element, model: mujoco.MjModel, body: int, urdf: bool = False) -> None:
    """Say what a body weighs, as SDF or as URDF."""
    mass, position, rotation = float(model.body_mass[body]), model.body_ipos[body], model.body_iquat[body]
    if mass == 0.0:
        return
    inertial = _add(link, "inertial")
    moments = dict(zip(("ixx", "iyy", "izz"), (repr(float(value)) for value in model.body_inertia[body]), strict=True))
    products = dict.fromkeys(("ixy", "ixz", "iyz"), "0.0")
    if urdf:
        _add(inertial, "origin", xyz=numbers(position), rpy=numbers(roll_pitch_yaw(rotation)))
        _add(inertial, "mass", value=repr(mass))
        _add(inertial, "inertia", **moments, **products)
        return
    _add(inertial, "pose", _pose(position, rotation))
    _add(inertial, "mass", repr(mass))
    inertia = _add(inertial, "inertia")
    for name, value in (moments | products).items():
        _add(inertia, name, value)


def geoms_of(model: mujoco.MjModel, body: int) -> range:
    """Numbers of a body's geoms."""
    first = int(model.body_geomadr[body])
    return range(first, first + int(model.body_geomnum[body])) if first >= 0 else range(0)


def is_solid(model: mujoco.MjModel, geom: int) -> bool:
    """Whether things collide with a geom."""
    return bool(model.geom_contype[geom] or model.geom_conaffinity[geom])


def is_seen(model: mujoco.MjModel, geom: int) -> bool:
    """Whether cameras see a geom: MuJoCo draws the first three groups."""
    return int(model.geom_group[geom]) < 3 and float(model.geom_rgba[geom, 3]) > 0.0


def _model(model: mujoco.MjModel, data: mujoco.MjData, root: int) -> ElementTree.Element:
    element = ElementTree.Element("model", name=model.body(root).name)
    members = [body for body in range(model.nbody) if int(model.body_rootid[body]) == root]
    jointed = [body for body in members if int(model.body_jntnum[body])]
    _add(element, "static", "false" if jointed else "true")
    _add(element, "pose", _pose(data.xpos[root], data.xquat[root]))
    for body in members:
        link = _add(element, "link", name=model.body(body).name)
        if body != root:
            pose = _add(link, "pose", _pose(model.body_pos[body], model.body_quat[body]))
            pose.set("relative_to", model.body(int(model.body_parentid[body])).name)
        add_inertial(link, model, body)
        for geom in geoms_of(model, body):
            _add_geom(link, model, geom)
    if jointed and root not in jointed:
        _add_joint(element, f"{model.body(root).name}_fixed", "fixed", "world", model.body(root).name)
    for body in members:
        if body != root or (body in jointed and not _is_free(model, body)):
            element.append(_joint(model, body))
    return element


def _is_free(model: mujoco.MjModel, body: int) -> bool:
    return int(model.jnt_type[int(model.body_jntadr[body])]) == mujoco.mjtJoint.mjJNT_FREE


def _joint(model: mujoco.MjModel, body: int) -> ElementTree.Element:
    name, parent = model.body(body).name, model.body(int(model.body_parentid[body])).name
    holder = ElementTree.Element("model")
    if not int(model.body_jntnum[body]):
        return _add_joint(holder, f"{name}_fixed", "fixed", parent, name)
    number = int(model.body_jntadr[body])
    kinds = {mujoco.mjtJoint.mjJNT_SLIDE: "prismatic", mujoco.mjtJoint.mjJNT_HINGE: "revolute"}
    kind = kinds.get(mujoco.mjtJoint(int(model.jnt_type[number])))
    if kind is None or int(model.body_jntnum[body]) > 1:
        raise ValueError(f"body {name!r}: expected one slide or hinge")
    joint = _add_joint(holder, f"{name}_{kind}", kind, parent, name)  # SDF wants other names than those of links
    axis = _add(joint, "axis")
    _add(axis, "xyz", numbers(model.jnt_axis[number]))
    low, high = model.jnt_range[number]
    limit = _add(axis, "limit")
    _add(limit, "lower", repr(float(low)))
    _add(limit, "upper", repr(float(high)))
    dof = int(model.jnt_dofadr[number])
    dynamics = _add(axis, "dynamics")
    _add(dynamics, "damping", repr(float(model.dof_damping[dof])))
    _add(dynamics, "friction", repr(float(model.dof_frictionloss[dof])))
    _add(dynamics, "spring_reference", repr(float(model.qpos_spring[int(model.jnt_qposadr[number])])))
    _add(dynamics, "spring_stiffness", repr(float(model.jnt_stiffness[number])))
    return joint


def _add_joint(model: ElementTree.Element, name: str, kind: str, parent: str, child: str) -> ElementTree.Element:
    joint = _add(model, "joint", name=name, type=kind)
    _add(joint, "parent", parent)
    _add(joint, "child", child)
    return joint


def _add_geom(link: ElementTree.Element, model: mujoco.MjModel, geom: int) -> None:
    pose = _pose(model.geom_pos[geom], model.geom_quat[geom])
    if is_solid(model, geom):
        collision = _add(link, "collision", name=f"collision{geom}")
        _add(collision, "pose", pose)
        collision.append(_geometry(model, geom))
        slides, turns, _ = (repr(float(value)) for value in model.geom_friction[geom])
        friction = _add(_add(collision, "surface"), "friction")
        ode = _add(friction, "ode")
        _add(ode, "mu", slides)
        _add(ode, "mu2", slides)
        _add(_add(friction, "torsional"), "coefficient", turns)
    if is_seen(model, geom):
        visual = _add(link, "visual", name=f"visual{geom}")
        _add(visual, "pose", pose)
        visual.append(_geometry(model, geom))
        material = _add(visual, "material")
        for part in ("ambient", "diffuse"):
            _add(material, part, numbers(model.geom_rgba[geom].astype(float).round(4)))


def _geometry(model: mujoco.MjModel, geom: int) -> ElementTree.Element:
    kind, size = int(model.geom_type[geom]), model.geom_size[geom]
    geometry = ElementTree.Element("geometry")
    if kind == _GEOM.mjGEOM_BOX:
        _add(_add(geometry, "box"), "size", numbers(2.0 * size))
    elif kind == _GEOM.mjGEOM_SPHERE:
        _add(_add(geometry, "sphere"), "radius", repr(float(size[0])))
    elif kind == _GEOM.mjGEOM_ELLIPSOID:
        _add(_add(geometry, "ellipsoid"), "radii", numbers(size))
    elif kind in (_GEOM.mjGEOM_CYLINDER, _GEOM.mjGEOM_CAPSULE):
        shape = _add(geometry, "cylinder" if kind == _GEOM.mjGEOM_CYLINDER else "capsule")
        _add(shape, "radius", repr(float(size[0])))
        _add(shape, "length", repr(2.0 * float(size[1])))
    else:
        raise ValueError(f"geom {geom}: no shape of SDF for {_GEOM(kind).name}")
    return geometry


def _camera_rotation(model: mujoco.MjModel, number: int) -> np.ndarray:
    """Orientation of a camera on its body, as SDF has it, `[4]`."""
    flat, quaternion = np.empty(9), np.empty(4)
    mujoco.mju_quat2Mat(flat, model.cam_quat[number])
    mujoco.mju_mat2Quat(quaternion, (flat.reshape(3, 3) @ _LOOKS_AHEAD).ravel())
    return quaternion


def _pose(position: np.ndarray, quaternion: np.ndarray) -> str:
    return numbers([*position, *roll_pitch_yaw(np.asarray(quaternion, dtype=np.float64))])


def _add(parent: ElementTree.Element, tag: str, text: str | None = None, **attributes: str) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, tag, attributes)
    element.text = text
    return element
