"""The tabletop: a Panda mounted on a table with a drawer, a button, a plate and one thing to take.

Everything is in the frame of the arm's base, m: x away from the robot, y to its left, z up from the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import mujoco
import numpy as np

from irevla_policy.sim.franka import BASE, PHYSICS_RATE, kitchen_model, make_real
from irevla_policy.sim.light_meshes import lighten

OBJECT, PLATE, DRAWER, BUTTON = "object", "plate", "drawer", "button"
"""Bodies of the scene; drawer and button are joints too, which move them."""

CABINET, STAND, TABLE = "cabinet", "stand", "table"
"""What drawer and button are part of, and what all stands on."""

HANDLE = "handle"
"""Site in the gap between the drawer's front and the bar of its handle."""

CAP = "cap"
"""Site on top of the button."""

DRAWER_TRAVEL, BUTTON_TRAVEL = 0.15, 0.02
"""How far they move, m."""

PLATE_RADIUS, PLATE_HEIGHT = 0.06, 0.006  # m

_Rgba = tuple[float, float, float, float]

_WOOD, _STEEL, _WHITE = (0.72, 0.58, 0.42, 1.0), (0.35, 0.37, 0.40, 1.0), (0.92, 0.92, 0.90, 1.0)
_GREEN_LEAF = (0.25, 0.50, 0.18, 1.0)

_GEOM = mujoco.mjtGeom
_FRICTION = (1.2, 0.02, 0.002)
_DENSITY = 400.0  # kg / m^3: a block of 4 cm weighs 26 g


@dataclass(frozen=True)
class Thing:
    """Something to take.

    Attributes:
        build: Adds its shape to a body whose origin lies in the middle of where the fingers close.
        height: Of that origin above the table when it lies there, m.
    """

    build: Callable[[mujoco.MjsBody], None]
    height: float


def _geom(body: mujoco.MjsBody, kind: mujoco.mjtGeom, size: tuple[float, ...], rgba: _Rgba, **rest: object) -> None:
    body.add_geom(
        type=kind, size=[*size, 0.0, 0.0][:3], rgba=rgba, condim=6, friction=_FRICTION, density=_DENSITY, **rest
    )


def _block(rgba: _Rgba) -> Thing:
    return Thing(lambda body: _geom(body, _GEOM.mjGEOM_BOX, (0.02, 0.02, 0.02), rgba), 0.02)


def _eggplant(body: mujoco.MjsBody) -> None:
    _geom(body, _GEOM.mjGEOM_ELLIPSOID, (0.048, 0.023, 0.023), (0.32, 0.10, 0.38, 1.0))
    _geom(body, _GEOM.mjGEOM_ELLIPSOID, (0.016, 0.014, 0.014), _GREEN_LEAF, pos=(0.044, 0.0, 0.0))


def _carrot(body: mujoco.MjsBody) -> None:
    # Lies on its side: the radius shrinks from one end to the other, and the lowest points are all on the table.
    for number, radius in enumerate(np.linspace(0.019, 0.009, 5)):
        ends = (0.04 - 0.022 * number, 0.0, radius - 0.016), (0.018 - 0.022 * number, 0.0, radius - 0.016)
        _geom(body, _GEOM.mjGEOM_CAPSULE, (radius,), (0.95, 0.45, 0.08, 1.0), fromto=np.concatenate(ends))
    _geom(body, _GEOM.mjGEOM_ELLIPSOID, (0.018, 0.009, 0.009), _GREEN_LEAF, pos=(0.068, 0.0, 0.003))


def _cucumber(body: mujoco.MjsBody) -> None:
    ends = (-0.045, 0.0, 0.0, 0.045, 0.0, 0.0)
    _geom(body, _GEOM.mjGEOM_CAPSULE, (0.017,), (0.20, 0.45, 0.15, 1.0), fromto=ends)


def _banana(body: mujoco.MjsBody) -> None:
    bend = [(-0.055, -0.012), (-0.03, -0.001), (0.0, 0.003), (0.03, -0.001), (0.055, -0.012)]
    for (x, y), (x2, y2) in pairwise(bend):
        ends = (x, y, 0.0, x2, y2, 0.0)
        _geom(body, _GEOM.mjGEOM_CAPSULE, (0.015,), (0.95, 0.85, 0.20, 1.0), fromto=ends)


THINGS = {
    "red-block": _block((0.85, 0.12, 0.12, 1.0)),
    "green-block": _block((0.15, 0.65, 0.20, 1.0)),
    "blue-block": _block((0.12, 0.25, 0.80, 1.0)),
    "yellow-block": _block((0.93, 0.80, 0.15, 1.0)),
    "eggplant": Thing(_eggplant, 0.023),
    "carrot": Thing(_carrot, 0.016),
    "orange-block": _block((0.95, 0.50, 0.10, 1.0)),
    "purple-block": _block((0.55, 0.20, 0.65, 1.0)),
    "can": Thing(lambda body: _geom(body, _GEOM.mjGEOM_CYLINDER, (0.022, 0.03), (0.75, 0.76, 0.80, 1.0)), 0.03),
    "ball": Thing(lambda body: _geom(body, _GEOM.mjGEOM_SPHERE, (0.023,), (0.95, 0.45, 0.65, 1.0)), 0.023),
    "cucumber": Thing(_cucumber, 0.017),
    "banana": Thing(_banana, 0.015),
}
"""By name."""


def tabletop_spec(thing: str, mesh_cell: float) -> mujoco.MjSpec:
    """The scene, not compiled yet.

    Args:
        thing: What lies on the table, one of `THINGS`.
        mesh_cell: Vertices of the arm's visual meshes this close together are drawn as one, m; 0 draws all.
    """
    spec = _arm_alone()
    if mesh_cell:
        lighten(spec, mesh_cell)
    spec.option.timestep = 1.0 / PHYSICS_RATE
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    # Friction that holds what the fingers carry.
    spec.option.cone, spec.option.impratio = mujoco.mjtCone.mjCONE_ELLIPTIC, 10.0
    world = spec.worldbody
    world.add_light(pos=(0.6, -0.6, 2.0), dir=(-0.1, 0.3, -1.0), directional=True)
    spec.visual.headlight.ambient, spec.visual.headlight.diffuse = [0.35] * 3, [0.35] * 3
    table = world.add_body(name=TABLE, pos=(0.45, 0.0, -0.03))
    _geom(table, _GEOM.mjGEOM_BOX, (0.5, 0.6, 0.03), (0.55, 0.53, 0.50, 1.0))
    plate = world.add_body(name=PLATE, pos=(0.45, 0.0, 0.5 * PLATE_HEIGHT))
    _geom(plate, _GEOM.mjGEOM_CYLINDER, (PLATE_RADIUS, 0.5 * PLATE_HEIGHT), _WHITE)
    _add_drawer(world)
    _add_button(world)
    taken = world.add_body(name=OBJECT, pos=(0.45, 0.0, THINGS[thing].height))
    taken.add_freejoint(name=OBJECT)
    THINGS[thing].build(taken)
    return spec


def _arm_alone() -> mujoco.MjSpec:
    """The kitchen's scene without the kitchen: the arm, its base in the origin."""
    spec = mujoco.MjSpec.from_file(str(kitchen_model()))
    make_real(spec)
    mount = spec.body(BASE).parent
    mount.alt.type = mujoco.mjtOrientation.mjORIENTATION_QUAT
    mount.pos, mount.quat = (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0)
    for equality in list(spec.equalities):
        equality.delete()
    for body in list(spec.worldbody.bodies):
        if body.name and spec.body(BASE) not in body.find_all("body"):
            spec.detach_body(body)
    for item in (*spec.worldbody.geoms, *spec.lights, *spec.cameras):
        item.delete()
    spec.site("end_effector").group = 3  # a ball below the hand, in the way of its camera
    _shorten_fingers(spec)
    # There only collision shapes have a mass; here all have, but for what is only seen of the arm.
    spec.compiler.inertiagrouprange = (0, 5)
    for geom in spec.geoms:
        if geom.contype == 0 and geom.conaffinity == 0:
            geom.mass = 0.0
    drawn = {geom.meshname for geom in spec.geoms}
    for mesh in list(spec.meshes):
        if mesh.name not in drawn:
            mesh.delete()
    for item in (*spec.materials, *spec.textures):
        item.delete()
    return spec


def _shorten_fingers(spec: mujoco.MjSpec) -> None:
    """Give the arm the fingers that it is sold with; the kitchen's are 4 cm longer."""
    for name, side in (("panda_leftfinger", 1.0), ("panda_rightfinger", -1.0)):
        finger = spec.body(name)
        for geom in list(finger.geoms):
            geom.delete()
        for size, rgba, position in (
            ((0.0105, 0.009, 0.016), _WHITE, (0.0, 0.013 * side, 0.016)),
            ((0.0105, 0.0075, 0.011), _STEEL, (0.0, 0.0075 * side, 0.043)),
        ):
            _geom(finger, _GEOM.mjGEOM_BOX, size, rgba, pos=position, group=0)


def _add_drawer(world: mujoco.MjsBody) -> None:
    """A cabinet that is open to the robot, and a drawer whose handle is a bar across its front."""
    wide, deep, high, wall = 0.10, 0.09, 0.045, 0.006  # half sizes, and the thickness of the walls
    cabinet = world.add_body(name=CABINET, pos=(0.66, 0.25, high))
    for offset, size in (
        ((0.0, wide - wall, 0.0), (deep, wall, high)),
        ((0.0, wall - wide, 0.0), (deep, wall, high)),
        ((deep - wall, 0.0, 0.0), (wall, wide, high)),
        ((0.0, 0.0, high - wall), (deep, wide, wall)),
    ):
        _geom(cabinet, _GEOM.mjGEOM_BOX, size, _WOOD, pos=offset)
    drawer = cabinet.add_body(name=DRAWER, pos=(-deep, 0.0, 0.0))
    drawer.add_joint(
        name=DRAWER, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=(-1.0, 0.0, 0.0), range=(0.0, DRAWER_TRAVEL),
        damping=4.0, frictionloss=0.6, armature=0.05,
    )  # fmt: skip
    front, gap = (wall, wide - 3.0 * wall, high - 3.0 * wall), 0.024
    _geom(drawer, _GEOM.mjGEOM_BOX, front, (0.80, 0.68, 0.50, 1.0))
    _geom(drawer, _GEOM.mjGEOM_BOX, (deep - 2.0 * wall, front[1], 0.003), _WOOD, pos=(deep - wall, 0.0, -front[2]))
    bar = -wall - 2.0 * gap
    _geom(drawer, _GEOM.mjGEOM_BOX, (0.006, 0.055, 0.008), _STEEL, pos=(bar, 0.0, 0.0))
    for side in (-0.049, 0.049):
        _geom(drawer, _GEOM.mjGEOM_BOX, (gap, 0.006, 0.006), _STEEL, pos=(-wall - gap, side, 0.0))
    drawer.add_site(name=HANDLE, pos=(-wall - gap, 0.0, 0.0), size=[0.005] * 3, group=3)


def _add_button(world: mujoco.MjsBody) -> None:
    """A stand with a cap on a spring."""
    high = 0.025
    stand = world.add_body(name=STAND, pos=(0.58, -0.26, high))
    _geom(stand, _GEOM.mjGEOM_BOX, (0.045, 0.045, high), _STEEL)
    button = stand.add_body(name=BUTTON, pos=(0.0, 0.0, high + BUTTON_TRAVEL))
    button.add_joint(
        name=BUTTON, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=(0.0, 0.0, -1.0), range=(0.0, BUTTON_TRAVEL),
        stiffness=60.0, damping=2.0, armature=0.02,
    )  # fmt: skip
    _geom(button, _GEOM.mjGEOM_CYLINDER, (0.028, 0.008), (0.80, 0.10, 0.10, 1.0))
    button.add_site(name=CAP, pos=(0.0, 0.0, 0.008), size=[0.005] * 3, group=3)
