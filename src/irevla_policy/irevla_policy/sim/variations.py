"""Changes of a scene's objects: colour and size, as edits of the model before it is compiled."""

from __future__ import annotations

import mujoco

from irevla_policy.sim.tasks import TaskError, Variation

_NOT_OBJECTS = ("tablelink", "RetainingWall", "base", "mocap")
"""Bodies of every Meta-World scene that no variation touches."""


def vary(spec: mujoco.MjSpec, variation: Variation) -> None:
    """Give the objects of a scene the variation's colour and size.

    Raises:
        TaskError: The variation names a body that the scene does not have.
    """
    bodies = _bodies(spec, variation)
    if variation.rgba is not None:
        for body in bodies:
            _colour(body, variation.rgba)
    if variation.scale != 1.0:
        for body in bodies:
            _resize(spec, body, variation.scale)


def _bodies(spec: mujoco.MjSpec, variation: Variation) -> list[mujoco.MjsBody]:
    objects = [body for body in spec.worldbody.bodies if body.name not in _NOT_OBJECTS]
    if not variation.bodies:
        return objects
    named = []
    for name in variation.bodies:
        body = spec.body(name)
        if body is None:
            known = ", ".join(sorted(item.name for item in spec.bodies if item.name))
            raise TaskError(f"variation: the scene has no body {name!r}; known bodies: {known}")
        named.append(body)
    return named


def _subtree(body: mujoco.MjsBody) -> list[mujoco.MjsBody]:
    return [body, *body.find_all("body")]


def _colour(body: mujoco.MjsBody, rgba: tuple[float, float, float, float]) -> None:
    for part in _subtree(body):
        for geom in part.geoms:
            # Invisible collision shapes stay invisible.
            if geom.group <= 2 and geom.rgba[3] > 0.0:
                geom.material = ""
                geom.rgba = rgba


def _resize(spec: mujoco.MjSpec, body: mujoco.MjsBody, scale: float) -> None:
    """Scale everything below a body's origin; masses follow the volume."""
    meshes: set[str] = set()
    for part in _subtree(body):
        if part is not body:
            part.pos = part.pos * scale
        if part.explicitinertial:
            part.ipos, part.mass = part.ipos * scale, part.mass * scale**3
            part.inertia = part.inertia * scale**5
        for geom in part.geoms:
            geom.pos, geom.size = geom.pos * scale, geom.size * scale
            if geom.mass > 0.0:
                geom.mass = geom.mass * scale**3
            meshes.update([geom.meshname] if geom.meshname else [])
        for site in part.sites:
            site.pos, site.size = site.pos * scale, site.size * scale
        for joint in part.joints:
            joint.pos = joint.pos * scale
            if joint.type == mujoco.mjtJoint.mjJNT_SLIDE:
                joint.range = joint.range * scale
    for mesh in spec.meshes:
        if mesh.name in meshes:
            mesh.scale = mesh.scale * scale
