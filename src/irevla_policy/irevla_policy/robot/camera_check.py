"""Whether a camera that is there is the one of the profile: its images, their rate and its calibration."""

from __future__ import annotations

from collections import deque
from dataclasses import astuple, dataclass, fields

from irevla_policy.robot.camera import Intrinsics
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.settings import SettingsError

_SLOWEST = 0.8
"""Share of the promised rate below which a camera is refused."""

_INTRINSICS_TOLERANCE = 0.02
"""Of the image's width."""

_SHORTEST_WINDOW = 1.0  # s
_FRAMES_OF_A_WINDOW = 5.0


@dataclass(frozen=True)
class Picture:
    """What an image says of itself.

    Attributes:
        width: px.
        height: px.
        encoding: Name of the layout of its pixels; empty where it does not say (compressed ones).
        frame: Its `frame_id`.
    """

    width: int
    height: int
    encoding: str
    frame: str


@dataclass(frozen=True)
class Calibration:
    """What a sensor_msgs/CameraInfo says.

    Attributes:
        width: px.
        height: px.
        intrinsics: Of K; all 0 where the camera is not calibrated.
    """

    width: int
    height: int
    intrinsics: tuple[float, float, float, float]


class FrameRate:
    """Frames a second over the last while: at least a second, and a handful of frames at the promised rate.

    Args:
        promised: Hz.
    """

    def __init__(self, promised: float) -> None:
        self.window = max(_SHORTEST_WINDOW, _FRAMES_OF_A_WINDOW / promised)
        self._period = 1.0 / promised
        self._arrivals: deque[float] = deque()
        self._first: float | None = None

    def on_frame(self, now: float) -> None:
        """A frame arrived at `now`, s on any steady clock."""
        self._first = now if self._first is None else self._first
        self._arrivals.append(now)

    def measured(self, now: float) -> float | None:
        """Hz; None as long as the first frame is not a whole window ago."""
        if self._first is None or now - self._first < self.window:
            return None
        while self._arrivals and now - self._arrivals[0] > self.window:
            self._arrivals.popleft()
        if len(self._arrivals) < 2:
            return len(self._arrivals) / self.window
        # A frame that is overdue counts against the camera, one that is merely to come does not.
        last = max(self._arrivals[-1], now - self._period)
        return (len(self._arrivals) - 1) / (last - self._arrivals[0])


def check_picture(profile: RobotProfile, number: int, topic: str, picture: Picture) -> None:
    """Refuse images that are not what the profile promises.

    Args:
        profile: What was expected.
        number: Which of its cameras.
        topic: Where the image came.
        picture: What it says of itself.

    Raises:
        SettingsError: Encoding, size or frame are others; says which line of which file to change.
    """
    camera = profile.cameras[number]
    size, expected = f"{picture.width} x {picture.height} px", f"{camera.width} x {camera.height} px"
    side = "width" if picture.width != camera.width else "height"
    for key, fits, found, promised in (
        ("encoding", picture.encoding in ("", camera.encoding), f"as {picture.encoding}", camera.encoding),
        (side, size == expected, f"with {size}", expected),
        ("frame", camera.frame in ("", picture.frame), f"from frame {picture.frame!r}", repr(camera.frame)),
    ):
        if not fits:
            where = profile.place(f"cameras[{number}]: {key}")
            advice = "change it there or in the driver"
            raise SettingsError(f"{where}: {topic} comes {found}, promised is {promised}: {advice}")


def rate_problem(profile: RobotProfile, number: int, topic: str, rate: float) -> str:
    """Why a camera is too slow; empty when it is not.

    Args:
        profile: What was expected.
        number: Which of its cameras.
        topic: Where its images come.
        rate: Measured, Hz.
    """
    promised = profile.cameras[number].rate
    if rate >= _SLOWEST * promised:
        return ""
    place = profile.place(f"cameras[{number}]: rate")
    return (
        f"{place}: {topic} comes at {rate:.1f} Hz, promised are {promised:g} Hz: lower it there or raise the driver's"
    )


def check_calibration(profile: RobotProfile, number: int, topic: str, found: Calibration) -> None:
    """Refuse a calibration that is not the profile's `intrinsics`, where it has some.

    Args:
        profile: What was expected.
        number: Which of its cameras.
        topic: Where the calibration came.
        found: What it says.

    Raises:
        SettingsError: It is for images of another size, or K is another; says which line of which file to change.
    """
    camera = profile.cameras[number]
    if camera.intrinsics is None:
        return
    place = profile.place(f"cameras[{number}]: intrinsics")
    if not any(found.intrinsics):
        raise SettingsError(f"{place}: {topic} has no calibration (K is 0): calibrate the camera, or leave these out")
    if (found.width, found.height) != (camera.width, camera.height):
        raise SettingsError(
            f"{place}: {topic} is for images of {found.width} x {found.height} px, promised are "
            f"{camera.width} x {camera.height}: calibrate the camera at that size"
        )
    tolerance = _INTRINSICS_TOLERANCE * camera.width
    for field, there, promised in zip(fields(Intrinsics), found.intrinsics, astuple(camera.intrinsics), strict=True):
        if not abs(there - promised) <= tolerance:
            raise SettingsError(
                f"{place}: {topic} says {field.name} {there:.2f} px, promised are {promised:g} px, give or take "
                f"{tolerance:.2f}: change it there, or calibrate the camera"
            )
