"""The URDF of an arm, written from its MuJoCo model, so that planner and simulator agree on the kinematics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

import mujoco
import numpy as np

_SAMPLES = 10
"""Points along each side of a triangle, less one."""


@dataclass(frozen=True, eq=False)
class Box:
    """A collision shape.

    Attributes:
        position: Its middle in the frame of the link, m, `[3]`.
        quaternion: Its orientation there, `[4]`, w first.
        size: Its edges, m, `[3]`.
    """

    position: np.ndarray
    quaternion: np.ndarray
    size: np.ndarray


def urdf_from_mujoco(
    model: mujoco.MjModel,
    name: str,
    base: str,
    end_effector: str,
    limits: Mapping[str, tuple[float, float]],
    boxes: Mapping[str, Sequence[Box]] | None = None,
) -> str:
    """Describe the chain of bodies from `base` to `end_effector` as URDF links and joints.

    The root link carries the name of `base` and lies at the world's origin: link poses equal MuJoCo's body poses.

    Args:
        model: The compiled model.
        name: Name of the robot.
        base: First body of the chain.
        end_effector: Last body of the chain; its link is the end-effector frame.
        limits: Joint name to largest velocity (rad/s) and effort (N m).
        boxes: Body to its collision shapes; none when left out.

    Returns:
        The URDF document.

    Raises:
        ValueError: A body of the chain has a joint that is not a single hinge at the body's origin.
    """
    robot = ElementTree.Element("robot", name=name)
    chain = _chain(model, base, end_effector)
    parent = "world"
    ElementTree.SubElement(robot, "link", name=parent)
    for body in chain:
        link = model.body(body).name
        element = ElementTree.SubElement(robot, "link", name=link)
        for box in (boxes or {}).get(link, ()):
            collision = ElementTree.SubElement(element, "collision")
            ElementTree.SubElement(
                collision, "origin", xyz=numbers(box.position), rpy=numbers(roll_pitch_yaw(box.quaternion))
            )
            ElementTree.SubElement(ElementTree.SubElement(collision, "geometry"), "box", size=numbers(box.size))
        joint = _joint(model, body, limits)
        ElementTree.SubElement(joint, "parent", link=parent)
        ElementTree.SubElement(joint, "child", link=link)
        position, rotation = model.body_pos[body], model.body_quat[body]
        ElementTree.SubElement(joint, "origin", xyz=numbers(position), rpy=numbers(roll_pitch_yaw(rotation)))
        robot.append(joint)
        parent = link
    ElementTree.indent(robot)
    return '<?xml version="1.0"?>\n' + ElementTree.tostring(robot, encoding="unicode") + "\n"


def bounding_boxes(model: mujoco.MjModel, names: Sequence[str], thickness: float = 0.05) -> dict[str, list[Box]]:
    """Boxes around the collision meshes of bodies: each is cut across its longest side, and each slice has a box.

    Args:
        model: The compiled model.
        names: Of the bodies.
        thickness: Of a slice at most, m.
    """
    found: dict[str, list[Box]] = {name: [] for name in names}
    for geom in range(model.ngeom):
        body = model.body(int(model.geom_bodyid[geom])).name
        collides = model.geom_contype[geom] or model.geom_conaffinity[geom]
        if body not in found or not collides or model.geom_type[geom] != mujoco.mjtGeom.mjGEOM_MESH:
            continue
        points = _surface(model, geom)
        low, high = points.min(axis=0), points.max(axis=0)
        longest = int(np.argmax(high - low))
        slices = int(np.ceil((high - low)[longest] / thickness))
        member = np.minimum(((points - low)[:, longest] / (high - low)[longest] * slices).astype(int), slices - 1)
        for number in range(slices):
            inside = points[member == number]
            near, far = inside.min(axis=0), inside.max(axis=0)
            size = np.ceil(1e3 * (far - near)) / 1e3
            found[body].append(Box(0.5 * (near + far), np.array([1.0, 0.0, 0.0, 0.0]), size))
    return found


def _surface(model: mujoco.MjModel, geom: int) -> np.ndarray:
    """Points all over a geom's mesh, in the frame of its body, m, `[k, 3]`."""
    mesh = int(model.geom_dataid[geom])
    first, count = int(model.mesh_vertadr[mesh]), int(model.mesh_vertnum[mesh])
    corners = model.mesh_vert[first : first + count].astype(np.float64)
    begin, number = int(model.mesh_faceadr[mesh]), int(model.mesh_facenum[mesh])
    faces = corners[model.mesh_face[begin : begin + number]]  # [f, 3, 3]
    weights = [(i, j, _SAMPLES - i - j) for i in range(_SAMPLES + 1) for j in range(_SAMPLES + 1 - i)]
    points = np.einsum("wc,fcx->fwx", np.array(weights) / _SAMPLES, faces).reshape(-1, 3)
    rotation = np.empty(9)
    mujoco.mju_quat2Mat(rotation, model.geom_quat[geom])
    return points @ rotation.reshape(3, 3).T + model.geom_pos[geom]


def _chain(model: mujoco.MjModel, base: str, end_effector: str) -> list[int]:
    first, body = model.body(base).id, model.body(end_effector).id
    chain = [body]
    while body != first:
        body = int(model.body_parentid[body])
        if body == 0:
            raise ValueError(f"body {end_effector!r} does not hang on {base!r}")
        chain.append(body)
    return chain[::-1]


def _joint(model: mujoco.MjModel, body: int, limits: Mapping[str, tuple[float, float]]) -> ElementTree.Element:
    count = int(model.body_jntnum[body])
    link = model.body(body).name
    if count == 0:
        return ElementTree.Element("joint", name=f"{link}_fixed", type="fixed")
    joint = model.joint(int(model.body_jntadr[body]))
    if count != 1 or joint.type[0] != mujoco.mjtJoint.mjJNT_HINGE or np.any(joint.pos != 0.0):
        raise ValueError(f"body {link!r}: expected one hinge at its origin")
    element = ElementTree.Element("joint", name=joint.name, type="revolute")
    velocity, effort = limits[joint.name]
    low, high = joint.range
    ElementTree.SubElement(element, "axis", xyz=numbers(joint.axis))
    ElementTree.SubElement(
        element, "limit", lower=repr(float(low)), upper=repr(float(high)), velocity=repr(velocity), effort=repr(effort)
    )
    return element


def roll_pitch_yaw(quaternion: np.ndarray) -> tuple[float, float, float]:
    """Fixed-axis angles of a rotation, rad; at a pitch of 90 degrees the yaw is taken as 0."""
    flat = np.empty(9)
    mujoco.mju_quat2Mat(flat, quaternion / np.linalg.norm(quaternion))
    m = flat.reshape(3, 3)
    horizontal = math.hypot(m[0, 0], m[1, 0])
    pitch = math.atan2(-m[2, 0], horizontal)
    if horizontal > 1e-9:
        return math.atan2(m[2, 1], m[2, 2]), pitch, math.atan2(m[1, 0], m[0, 0])
    return math.atan2(-m[1, 2], m[1, 1]), pitch, 0.0


def numbers(values: object) -> str:
    """Numbers as XML attributes have them."""
    return " ".join(repr(round(float(value), 15) + 0.0) for value in np.asarray(values, dtype=float))
