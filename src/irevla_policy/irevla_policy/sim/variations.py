"""Changes of a scene's objects: colour, size and shape, as edits of the model before it is compiled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt

from irevla_policy.sim.tasks import TaskError, Variation

Array = npt.NDArray[np.float64]

_SIDES = 32
"""Sides of an elliptic cylinder, which MuJoCo only has as a mesh."""

_GEOM = mujoco.mjtGeom


def vary(
    spec: mujoco.MjSpec, variation: Variation, objects: Sequence[mujoco.MjsBody], table: Sequence[mujoco.MjsBody]
) -> None:
    """Give a scene the variation's colours, sizes and shapes.

    Args:
        spec: The scene.
        variation: What to change.
        objects: The task's objects, which change where the variation names no bodies.
        table: What `table_rgba` colours.

    Raises:
        TaskError: The variation names a body that the scene does not have.
    """
    bodies = _named(spec, variation.bodies) if variation.bodies else objects
    if variation.rgba is not None:
        for body in bodies:
            _colour(body, variation.rgba)
    for name, rgba in variation.colours.items():
        _colour(_body(spec, name, "colours"), rgba)
    if variation.table_rgba is not None:
        for body in table:
            _colour(body, variation.table_rgba)
    if variation.factors != (1.0, 1.0, 1.0):
        stretch = _Stretch(spec, np.array(variation.factors))
        for body in bodies:
            stretch.apply(body)
            if body.parent.name == "world":  # stands on the table
                body.pos = body.pos * [1.0, 1.0, variation.height_factor]


def _named(spec: mujoco.MjSpec, names: Sequence[str]) -> list[mujoco.MjsBody]:
    named = [_body(spec, name, "bodies") for name in names]
    # One that is carried by another one of the list changes with it, once.
    carried = {part.name for body in named for part in body.find_all("body")}
    return [body for body in named if body.name not in carried]


def _body(spec: mujoco.MjSpec, name: str, key: str) -> mujoco.MjsBody:
    body = spec.body(name)
    if body is None:
        known = ", ".join(sorted(item.name for item in spec.bodies if item.name))
        raise TaskError(f"{key}: the scene has no body {name!r}; known bodies: {known}")
    return body


def _colour(body: mujoco.MjsBody, rgba: tuple[float, float, float, float]) -> None:
    for part in [body, *body.find_all("body")]:
        for geom in part.geoms:
            # Invisible collision shapes stay invisible.
            if geom.group <= 2 and geom.rgba[3] > 0.0:
                geom.material = ""
                geom.rgba = rgba


class _Stretch:
    """Stretch of bodies along the axes of the scene, each about its own origin; masses follow the volume.

    Every part is stretched along its own axes by what the scene's stretch does to them. That is exact for parts
    whose axes are those of the scene in some order, which in Meta-World are nearly all; a part set at another angle
    keeps its angle. Spheres become ellipsoids and cylinders elliptic; a capsule stays round, its radius grows by the
    geometric mean.

    Args:
        spec: The scene.
        scale: Factors along x, y and z of the scene, `[3]`.
    """

    def __init__(self, spec: mujoco.MjSpec, scale: Array) -> None:
        self.spec, self.scale = spec, scale
        self.even = bool(np.all(scale == scale[0]))
        self._meshes: dict[tuple[str, ...], str] = {}

    def apply(self, body: mujoco.MjsBody) -> None:
        """Stretch a body and all that it carries."""
        frame, parent = self._rotation(body), body.parent
        while parent.name != "world":
            frame, parent = self._rotation(parent) @ frame, parent.parent
        self._part(body, frame)

    def _part(self, part: mujoco.MjsBody, frame: Array) -> None:
        stretch = frame.T @ np.diag(self.scale) @ frame  # in the axes of the part
        volume = float(np.prod(self.scale))
        if part.explicitinertial:
            # Second moments of the mass along the principal axes: they grow by the squares of the factors.
            moments = (0.5 * np.sum(part.inertia) - part.inertia) * volume * self._along(frame, part, "iquat") ** 2
            part.ipos, part.mass, part.inertia = stretch @ part.ipos, part.mass * volume, np.sum(moments) - moments
        for geom in part.geoms:
            if np.isfinite(geom.fromto[0]):
                self._stretch_rod(geom, stretch)
                continue
            along = self._along(frame, geom)
            geom.pos = stretch @ geom.pos
            if geom.meshname:
                geom.meshname = self._mesh(geom.meshname, along)
            elif geom.type == _GEOM.mjGEOM_CYLINDER and not np.isclose(along[0], along[1], rtol=1e-3):
                geom.meshname, geom.type = self._elliptic_cylinder(geom.size, along), _GEOM.mjGEOM_MESH
            else:
                self._resize(geom, along)
            if geom.mass > 0.0:
                geom.mass = geom.mass * volume
        for site in part.sites:
            site.pos = stretch @ site.pos
            self._resize(site, self._along(frame, site))
        for joint in part.joints:
            joint.pos = stretch @ joint.pos
            if joint.type == mujoco.mjtJoint.mjJNT_SLIDE:
                joint.range = joint.range * np.linalg.norm(stretch @ joint.axis) / np.linalg.norm(joint.axis)
        for child in part.bodies:
            child.pos = stretch @ child.pos
            self._part(child, frame @ self._rotation(child))

    def _along(self, frame: Array, item: Any, attribute: str = "quat") -> Array:
        """Factors along the axes of something in a part, `[3]`."""
        return np.linalg.norm(self.scale[:, None] * (frame @ self._rotation(item, attribute)), axis=0)

    def _rotation(self, item: Any, attribute: str = "quat") -> Array:
        """Rotation of a body, geom or site in what holds it, `[3, 3]`."""
        quat, matrix = np.array(getattr(item, attribute), dtype=np.float64), np.zeros(9)
        orientation = item.ialt if attribute == "iquat" else item.alt
        if orientation.type == mujoco.mjtOrientation.mjORIENTATION_EULER:
            angles = np.array(orientation.euler)
            sequence = "".join(self.spec.compiler.eulerseq)
            mujoco.mju_euler2Quat(quat, np.deg2rad(angles) if self.spec.compiler.degree else angles, sequence)
        elif orientation.type != mujoco.mjtOrientation.mjORIENTATION_QUAT:
            raise NotImplementedError(f"stretch of {item.name!r}, whose orientation is {orientation.type.name}")
        mujoco.mju_quat2Mat(matrix, quat)
        return matrix.reshape(3, 3)

    def _resize(self, shape: Any, along: Array) -> None:
        """Stretch a geom or site of a primitive type."""
        if shape.type == _GEOM.mjGEOM_SPHERE:
            if self.even:
                shape.size = shape.size * along
            else:
                shape.type, shape.size = _GEOM.mjGEOM_ELLIPSOID, shape.size[0] * along
        elif shape.type in (_GEOM.mjGEOM_CYLINDER, _GEOM.mjGEOM_CAPSULE):
            shape.size = shape.size * [np.sqrt(along[0] * along[1]), along[2], 1.0]
        else:
            shape.size = shape.size * along

    @staticmethod
    def _stretch_rod(geom: mujoco.MjsGeom, stretch: Array) -> None:
        """Stretch a capsule that is given by its two ends, which place it whatever its pose says."""
        ends = np.array(geom.fromto).reshape(2, 3)
        longer = np.linalg.norm(stretch @ (ends[1] - ends[0])) / np.linalg.norm(ends[1] - ends[0])
        geom.fromto = (ends @ stretch.T).ravel()
        geom.size = geom.size * np.sqrt(np.linalg.det(stretch) / longer)

    def _mesh(self, name: str, along: Array) -> str:
        """Name of a stretched copy of a mesh: others may use the same one."""
        key = (name, *(f"{factor:.6f}" for factor in along))
        if key not in self._meshes:
            mesh = self.spec.mesh(name)
            self._meshes[key] = copy = f"{name} x {' '.join(key[1:])}"
            self.spec.add_mesh(
                name=copy,
                file=mesh.file,
                scale=mesh.scale * along,
                inertia=mesh.inertia,
                smoothnormal=mesh.smoothnormal,
                maxhullvert=mesh.maxhullvert,
            )
        return self._meshes[key]

    def _elliptic_cylinder(self, size: Array, along: Array) -> str:
        """Name of a new mesh: what a cylinder of a radius and a half height becomes."""
        angles = np.linspace(0.0, 2.0 * np.pi, _SIDES, endpoint=False)
        ring = np.stack([np.cos(angles), np.sin(angles), np.ones(_SIDES)], axis=1) * [size[0], size[0], size[1]] * along
        name = f"elliptic cylinder {len(self.spec.meshes)}"
        self.spec.add_mesh(name=name, uservert=np.concatenate([ring, ring * [1.0, 1.0, -1.0]]).ravel())
        return name
