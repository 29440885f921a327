"""Camera images of a MuJoCo scene, fast enough for software rendering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mujoco
import numpy as np

from irevla_policy.robot.camera import Camera, Intrinsics
from irevla_policy.robot.observation import UInt8Image
from irevla_policy.sim.gl import GL_ADVICE
from irevla_policy.sim.tasks import CameraPose
from irevla_policy.sim.world import WorldError

_COSTLY = (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION, mujoco.mjtRndFlag.mjRND_SKYBOX)


def draw_simply(spec: mujoco.MjSpec, facets: int = 0) -> None:
    """Let a scene be drawn without shadows, reflections, sky and multisampling: 7 ms a frame in software, not 70.

    Args:
        spec: The scene.
        facets: Sides of round shapes; 0 for MuJoCo's 28, of which a small image shows next to nothing.
    """
    quality = spec.visual.quality
    quality.shadowsize = quality.offsamples = 0
    if facets:
        quality.numslices, quality.numstacks, quality.numquads = facets, facets // 2, 1


def add_cameras(
    spec: mujoco.MjSpec, cameras: Sequence[Camera], poses: Mapping[str, CameraPose], views: Mapping[str, str]
) -> None:
    """Place the cameras that have a pose in a scene.

    Args:
        spec: The scene.
        cameras: The profile's cameras.
        poses: Poses by the scene's name of a camera; they replace the scene's own of that name.
        views: The profile's name of a camera to the scene's name; the same where left out.

    Raises:
        WorldError: A camera is neither in `poses` nor one of the scene's own, or on a body that is not there.
    """
    spec.visual.global_.offwidth = max(camera.width for camera in cameras)
    spec.visual.global_.offheight = max(camera.height for camera in cameras)
    for name in {views.get(camera.name, camera.name) for camera in cameras}:
        existing = spec.camera(name)
        if name in poses:
            if existing is not None:
                existing.delete()
            pose = poses[name]
            holder = spec.body(pose.body) if pose.body else spec.worldbody
            if holder is None:
                raise WorldError(f"camera {name!r}: the scene has no body {pose.body!r}")
            holder.add_camera(name=name, pos=pose.position, quat=_orientation(pose), fovy=pose.fovy)
        elif existing is None:
            known = sorted({*poses, *(item.name for item in spec.cameras)})
            raise WorldError(f"no camera {name!r} in the scene; known cameras: {', '.join(known)}")


def intrinsics_of(model: mujoco.MjModel, cameras: Sequence[Camera], views: Mapping[str, str]) -> dict[str, Intrinsics]:
    """What the images of a model are projected with, by the profile's name of the camera.

    Args:
        model: The scene.
        cameras: The profile's cameras.
        views: The profile's name of a camera to the scene's name; the same where left out.
    """
    fovy = {camera.name: float(model.camera(views.get(camera.name, camera.name)).fovy[0]) for camera in cameras}
    return {camera.name: Intrinsics.of_view(fovy[camera.name], camera.width, camera.height) for camera in cameras}


class CameraRenderer:
    """Renders the profile's cameras of one model.

    Belongs to the thread that made it (so does its GL context); close it there.

    Args:
        model: The scene.
        cameras: The profile's cameras.
        views: The profile's name of a camera to the scene's name; the same where left out.

    Raises:
        WorldError: No GL context can be made.
    """

    def __init__(self, model: mujoco.MjModel, cameras: Sequence[Camera], views: Mapping[str, str]) -> None:
        self._cameras = tuple(cameras)
        self._views = dict(views)
        self._left_out = () if model.vis.quality.shadowsize else _COSTLY
        self._renderers: dict[tuple[int, int], mujoco.Renderer] = {}
        try:
            for camera in self._cameras:
                size = (camera.height, camera.width)
                if size not in self._renderers:
                    self._renderers[size] = mujoco.Renderer(model, *size)
        except Exception as error:
            self.close()
            raise WorldError(f"cannot render ({type(error).__name__}: {error}); {GL_ADVICE}") from error

    def render(self, data: mujoco.MjData) -> dict[str, UInt8Image]:
        """RGB images, uint8 `[H, W, 3]`, upright, in the profile's order of cameras."""
        images = {}
        for camera in self._cameras:
            renderer = self._renderers[camera.height, camera.width]
            renderer.update_scene(data, camera=self._views.get(camera.name, camera.name))
            for flag in self._left_out:
                renderer.scene.flags[flag] = 0
            images[camera.name] = renderer.render()
        return images

    def close(self) -> None:
        """Free the GL contexts."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()


def _orientation(pose: CameraPose) -> np.ndarray:
    """Quaternion of a camera (looking along -z, y up)."""
    back = np.subtract(pose.position, pose.look_at)
    back = back / np.linalg.norm(back)
    right = np.cross(pose.up, back)
    if np.linalg.norm(right) < 1e-6:  # straight down or up: +y of the frame is up in the image
        right = np.array([1.0, 0.0, 0.0])
    right = right / np.linalg.norm(right)
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, np.column_stack((right, np.cross(back, right), back)).ravel())
    return quaternion
