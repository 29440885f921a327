"""Coarser meshes for what is only looked at: software renders a small image of them several times faster.

The robot's visual meshes have some 60,000 triangles, of which a camera image of 96 pixels shows next to nothing.
Contacts and dynamics keep the original meshes.
"""

from __future__ import annotations

import functools
from pathlib import Path

import mujoco
import numpy as np
import numpy.typing as npt

HIDDEN_GROUP = 4
"""Group of geoms that collide and are not drawn."""

_Faces = npt.NDArray[np.int32]
_Mesh = tuple[npt.NDArray[np.float64], _Faces]


def lighten(spec: mujoco.MjSpec, cell: float, least: int = 1000) -> None:
    """Let the fixed visual geoms of a scene show coarser copies of their meshes.

    Vertices within the same cell of a grid become one, so that no surface moves by more than the cell's diagonal; a
    cell of about a pixel's size at the camera's distance leaves images nearly as they were.

    Args:
        spec: The scene.
        cell: Size of a cell, m.
        least: Meshes with fewer triangles stay as they are.
    """
    copies = {}
    for mesh in list(spec.meshes):
        if not mesh.file:
            continue
        path = (Path(spec.modelfiledir) / spec.meshdir / mesh.file).resolve()
        vertices, faces, triangles = _clustered(path, tuple(mesh.scale), cell)
        if triangles >= least:
            name = f"{mesh.name}_light"
            spec.add_mesh(name=name, uservert=vertices.ravel(), userface=faces.ravel())
            copies[mesh.name] = name
    kept = set()
    for body in spec.bodies:
        for geom in list(body.geoms):
            if geom.type != mujoco.mjtGeom.mjGEOM_MESH or geom.meshname not in copies:
                continue
            if geom.contype == 0 and geom.conaffinity == 0 and body.explicitinertial:
                geom.meshname = copies[geom.meshname]
                continue
            kept.add(geom.meshname)
            body.add_geom(
                type=mujoco.mjtGeom.mjGEOM_MESH, meshname=copies[geom.meshname], pos=geom.pos, quat=geom.quat,
                group=geom.group, rgba=geom.rgba, material=geom.material, contype=0, conaffinity=0, mass=0.0,
            )  # fmt: skip
            geom.group = HIDDEN_GROUP
    for mesh in list(spec.meshes):
        if mesh.name in copies and mesh.name not in kept:
            mesh.delete()


@functools.lru_cache(maxsize=256)
def _clustered(path: Path, scale: tuple[float, ...], cell: float) -> tuple[npt.NDArray[np.float64], _Faces, int]:
    """Vertices `[V, 3]` and triangles `[F, 3]` of a mesh file after clustering, and the file's number of triangles."""
    vertices, faces = _load(path, scale)
    cells, member = np.unique(np.floor(vertices / cell).astype(np.int64), axis=0, return_inverse=True)
    member = member.reshape(-1)
    sums = np.zeros((len(cells), 3))
    np.add.at(sums, member, vertices)
    centres = sums / np.bincount(member, minlength=len(cells))[:, None]
    corners = member[faces]
    distinct = (corners[:, 0] != corners[:, 1]) & (corners[:, 1] != corners[:, 2]) & (corners[:, 0] != corners[:, 2])
    corners = corners[distinct]
    # Triangles of the same three cells, seen from the same side, are one: turned so that the smallest comes first.
    first = corners.argmin(axis=1)
    turned = corners[np.arange(len(corners))[:, None], (first[:, None] + np.arange(3)) % 3]
    return centres, np.unique(turned, axis=0).astype(np.int32), len(faces)


def _load(path: Path, scale: tuple[float, ...]) -> _Mesh:
    """Vertices and triangles of a mesh file, in the file's own frame."""
    alone = mujoco.MjSpec()
    alone.add_mesh(name="mesh", file=str(path), scale=scale)
    alone.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="mesh", contype=0, conaffinity=0)
    model = alone.compile()
    # The compiler moves a mesh into the frame of its inertia; this undoes it.
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, model.mesh_quat[0])
    vertices = model.mesh_vert.astype(np.float64) @ rotation.reshape(3, 3).T + model.mesh_pos[0]
    return vertices, model.mesh_face.astype(np.int32)
