"""Rendered images against the intrinsics that are published with them."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from irevla_policy.robot.camera import Camera
from irevla_policy.robot.camera_check import Calibration, check_calibration
from irevla_policy.robot.profile import load_profile
from irevla_policy.sim.rendering import CameraRenderer, intrinsics_of
from irevla_policy.sim.tabletop import tabletop_scene
from irevla_policy.sim.tasks import load_tasks

SCENE = """
<mujoco>
  <visual><global offwidth="160" offheight="160"/></visual>
  <worldbody>
    <camera name="tele" pos="0 0 0" fovy="48"/>
    <camera name="wide" pos="0 0 0" fovy="75"/>
    <body name="dot" pos="{place}"><geom size="0.015" rgba="1 0 0 1"/></body>
  </worldbody>
</mujoco>
"""
CAMERAS = (Camera("tele", "/tele/image_raw", 128, 96), Camera("own", "/own/image_raw", 160, 160))
VIEWS = {"own": "wide"}


@pytest.mark.parametrize("place", [(0.0, 0.0, -1.0), (0.3, 0.25, -1.0), (-0.2, 0.1, -0.7), (0.35, -0.3, -1.0)])
def test_a_point_is_seen_where_the_intrinsics_project_it(place: tuple[float, float, float]) -> None:
    model = mujoco.MjModel.from_xml_string(SCENE.format(place=" ".join(map(str, place))))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = CameraRenderer(model, CAMERAS, VIEWS)
    try:
        images = renderer.render(data)
    finally:
        renderer.close()
    for name, lens in intrinsics_of(model, CAMERAS, VIEWS).items():
        rows, columns = np.nonzero(images[name][..., 0] > 60)
        assert len(rows) >= 4
        x, y, ahead = place[0], -place[1], -place[2]  # MuJoCo looks along -z with y up
        expected = lens.fx * x / ahead + lens.cx, lens.fy * y / ahead + lens.cy
        assert (columns.mean(), rows.mean()) == pytest.approx(expected, abs=0.25)


@pytest.mark.parametrize("robot", ["panda", "panda_forward"])
def test_the_profiles_of_the_tabletop_promise_what_is_simulated(robot: str) -> None:
    profile = load_profile(robot)
    scene, _ = tabletop_scene(profile, load_tasks("tabletop"), "pick-can", 0)
    found = intrinsics_of(scene.model, profile.cameras, {})
    for number, camera in enumerate(profile.cameras):
        lens = found[camera.name]
        values = (lens.fx, lens.fy, lens.cx, lens.cy)
        promised = camera.intrinsics
        assert (promised.fx, promised.fy, promised.cx, promised.cy) == pytest.approx(values, abs=0.01)
        check_calibration(profile, number, "camera_info", Calibration(camera.width, camera.height, values))
