"""From streams of images and joint states to complete observations (pure).

An observation is complete when every camera has an image, and there are joint states, whose stamps lie within `slop` of
the first camera's image. Each image of the first camera makes at most one observation, the newest wins, and what is
older than the last observation is left out.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

import numpy as np

from irevla_policy.robot.observation import Observation, ObservationError, UInt8Image, Vector
from irevla_policy.robot.profile import RobotProfile

V = TypeVar("V")

# Stamps may be ahead of this machine's clock by as much as clocks of machines in one network differ, ns.
_FUTURE_TOLERANCE = 100_000_000
# A stamp that goes back by more than this comes from a clock or a world that started anew, ns.
_RESTART = 1_000_000_000


class _Stream(Generic[V]):
    """The newest few values of one sensor with their stamps, in order."""

    def __init__(self, what: str, depth: int) -> None:
        self.what = what
        self._items: deque[tuple[int, V]] = deque(maxlen=depth)

    def clear(self) -> None:
        self._items.clear()

    def add(self, stamp: int, value: V, now: int | None) -> None:
        """Keep a value, unless it repeats the newest stamp.

        Raises:
            ObservationError: The stamp is in the future or before the newest one.
        """
        if now is not None and stamp - now > _FUTURE_TOLERANCE:
            ahead = (stamp - now) * 1e-9
            raise ObservationError(f"{self.what}: stamp is {ahead:.2f} s in the future; expected synchronised clocks")
        if self._items:
            behind = self._items[-1][0] - stamp
            if behind == 0:
                return
            if behind > _RESTART:
                self._items.clear()
            elif behind > 0:
                late = behind * 1e-9
                raise ObservationError(
                    f"{self.what}: stamp is {late:.3f} s before the newest one; expected rising stamps"
                )
        self._items.append((stamp, value))

    def newest(self) -> tuple[int, V] | None:
        return self._items[-1] if self._items else None

    def nearest(self, stamp: int, slop: int) -> V | None:
        """The value nearest to a stamp, None when none is within `slop` ns."""
        best = min(self._items, key=lambda item: abs(item[0] - stamp), default=None)
        return best[1] if best is not None and abs(best[0] - stamp) <= slop else None


class ObservationAssembler:
    """Puts images, joint states and instruction together.

    Args:
        profile: Names and sizes of the cameras, number of joints.
        slop: Largest difference of stamps within an observation, s; 0 (lock-step) demands equal stamps.
        depth: Values of each sensor that are kept.
    """

    def __init__(self, profile: RobotProfile, slop: float, depth: int = 16) -> None:
        if slop < 0.0:
            raise ValueError(f"slop: expected at least 0 s, found {slop}")
        self._profile = profile
        self._slop = round(slop * 1e9)
        self._images: dict[str, _Stream[UInt8Image]] = {
            camera.name: _Stream(f"camera {camera.name!r} ({camera.topic})", depth) for camera in profile.cameras
        }
        self._joints: _Stream[tuple[Vector, float]] = _Stream(f"joint states ({profile.joint_states_topic})", 4 * depth)
        self._instruction = ""
        self._last: int | None = None

    @property
    def instruction(self) -> str:
        """The instruction in force; empty for none."""
        return self._instruction

    def set_instruction(self, text: str) -> Observation | None:
        """Change the instruction, also in the middle of an episode; observations from now on carry it.

        Returns:
            The observation that only the instruction was missing for, if there is one.
        """
        self._instruction = text.strip()
        return self._complete()

    def add_image(self, camera: str, stamp: int, image: UInt8Image, now: int | None = None) -> Observation | None:
        """An image arrived.

        Args:
            camera: Name of the camera.
            stamp: ns.
            image: RGB, uint8 `[H, W, 3]`, of the size that the profile promises.
            now: Present ROS time, ns, to find stamps from the future; None does not look.

        Returns:
            The observation that is complete now, if one is.

        Raises:
            ObservationError: Unknown camera, wrong size or type, or an impossible stamp.
        """
        stream = self._images.get(camera)
        if stream is None:
            raise ObservationError(
                f"camera {camera!r}: not in profile {self._profile.name!r}; it has {', '.join(self._images)}"
            )
        promised = next(entry for entry in self._profile.cameras if entry.name == camera)
        shape = (promised.height, promised.width, 3)
        if image.shape != shape or image.dtype != np.uint8:
            raise ObservationError(
                f"{stream.what}: expected uint8 {list(shape)}, found {image.dtype} {list(image.shape)}"
            )
        stream.add(stamp, image, now)
        return self._complete()

    def add_joint_states(
        self, stamp: int, positions: Vector, gripper: float, now: int | None = None
    ) -> Observation | None:
        """Joint states arrived: in the profile's order, rad, `[n]`, gripper in m. Otherwise as `add_image`."""
        if positions.shape != (len(self._profile.joints),) or not np.isfinite(positions).all():
            expected = f"{len(self._profile.joints)} finite positions"
            raise ObservationError(f"{self._joints.what}: expected {expected}, found {positions.tolist()}")
        self._joints.add(stamp, (positions, gripper), now)
        return self._complete()

    def forget(self) -> None:
        """Drop all images and joint states; the instruction stays."""
        for stream in self._images.values():
            stream.clear()
        self._joints.clear()
        self._last = None

    def _complete(self) -> Observation | None:
        if not self._instruction:
            return None
        newest = self._images[self._profile.cameras[0].name].newest()
        if newest is None:
            return None
        stamp = newest[0]
        if self._last is not None and stamp <= self._last and self._last - stamp <= _RESTART:
            return None
        images = {name: stream.nearest(stamp, self._slop) for name, stream in self._images.items()}
        joints = self._joints.nearest(stamp, self._slop)
        if joints is None or any(image is None for image in images.values()):
            return None
        self._last = stamp
        found = {name: image for name, image in images.items() if image is not None}
        return Observation(stamp, found, joints[0], joints[1], self._instruction)
