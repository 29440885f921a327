"""A camera as the profile promises it: topic, size, encoding, rate, frame and intrinsics."""

from __future__ import annotations

import math
from dataclasses import dataclass

from irevla_policy.settings import setting

ENCODINGS = ("rgb8", "bgr8", "rgba8", "bgra8", "mono8")

_LARGEST_LENGTH = 100_000.0  # px; a longer focal length is one in another unit


@dataclass(frozen=True)
class Intrinsics:
    """Focal lengths and principal point, which K of its `camera_info` has; left out, they are not compared."""

    fx: float = setting(doc="Focal length along x", unit="px", above=0.0, at_most=_LARGEST_LENGTH)
    fy: float = setting(doc="Focal length along y", unit="px", above=0.0, at_most=_LARGEST_LENGTH)
    cx: float = setting(
        doc="Principal point along x; 0 is the middle of the first pixel",
        unit="px",
        at_least=-_LARGEST_LENGTH,
        at_most=_LARGEST_LENGTH,
    )
    cy: float = setting(doc="The same along y", unit="px", at_least=-_LARGEST_LENGTH, at_most=_LARGEST_LENGTH)

    @classmethod
    def of_view(cls, fovy: float, width: int, height: int) -> Intrinsics:
        """Those of a pinhole with square pixels that looks through the middle of its image.

        Args:
            fovy: Vertical field of view, degrees, from the upper edge of the image to the lower.
            width: px.
            height: px.
        """
        focal = 0.5 * height / math.tan(0.5 * math.radians(fovy))
        return cls(focal, focal, 0.5 * (width - 1), 0.5 * (height - 1))


@dataclass(frozen=True)
class Camera:
    """A camera as the robot's drivers publish it."""

    name: str = setting(doc="Name that the model and the data use")
    topic: str = setting(doc="Topic of sensor_msgs/Image")
    width: int = setting(doc="Image width", unit="px", at_least=8, at_most=8192)
    height: int = setting(doc="Image height", unit="px", at_least=8, at_most=8192)
    encoding: str = setting("rgb8", "Encoding that the driver promises", choices=ENCODINGS)
    rate: float = setting(20.0, "Frame rate that the driver promises", unit="Hz", above=0.0, at_most=1000.0)
    frame: str = setting("", "`frame_id` that its images carry; empty for any")
    intrinsics: Intrinsics | None = setting(None, "What its `camera_info` says; leave out for anything")

    @property
    def namespace(self) -> str:
        """The topic without its last name: what the driver publishes beside the images is there, too."""
        return self.topic.rpartition("/")[0]

    @property
    def optical_frame(self) -> str:
        """The frame that a simulator of this camera gives its images (z ahead, x right; REP 103)."""
        return self.frame or f"{self.name}_optical_frame"
