"""Room for recordings: a quota for the folder and what must stay free on the disk."""

from __future__ import annotations

import os
import shutil
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from irevla_policy.robot.profile import RobotProfile

_GIGABYTE = 1e9
# Share of a raw frame that JPEG (quality 90) and PNG need, on the safe side of camera images.
_COMPRESSION = {"raw": 1.0, "jpeg": 0.25, "png": 0.8}
_BYTES_PER_PIXEL = {"mono8": 1, "rgba8": 4, "bgra8": 4}
# joint states, action, command, controller command and step info of one control period with their headers
_OTHER_BYTES_PER_TICK = 6000


def expected_rate(profile: RobotProfile, image_format: str = "raw") -> float:
    """Bytes a second that recording this robot needs, from the rates and sizes of its profile.

    Args:
        profile: The robot.
        image_format: `raw`, `jpeg` or `png`.
    """
    pixels = sum(
        camera.width * camera.height * _BYTES_PER_PIXEL.get(camera.encoding, 3) * camera.rate
        for camera in profile.cameras
    )
    return pixels * _COMPRESSION[image_format] + _OTHER_BYTES_PER_TICK * profile.guard_rate


@dataclass
class Quota:
    """Watches the folder of recordings.

    Attributes:
        folder: The folder.
        limit: Most bytes that its bags may take; 0 for no limit.
        keep_free: Bytes that must stay free on its disk.
        estimate: Bytes of an episode as long as none has been recorded.
    """

    folder: Path
    limit: int
    keep_free: int
    estimate: int
    _recent: deque[int] = field(default_factory=lambda: deque(maxlen=10))
    _used: int = -1

    @property
    def expected(self) -> int:
        """Bytes that the next episode is expected to need: the largest of the last ten and a fifth more."""
        return int(1.2 * max(self._recent)) if self._recent else self.estimate

    @property
    def used(self) -> int:
        """Bytes that the bags in the folder take."""
        if self._used < 0:
            self._used = folder_size(self.folder)
        return self._used

    def refusal(self) -> str:
        """Why the next episode does not fit, in one sentence; empty when it does."""
        expected = self.expected
        if self._is_beyond(expected):
            return (
                f"the quota of {_text(self.limit)} for {self.folder} is reached: {_text(self.used)} are used and an "
                f"episode needs about {_text(expected)}; delete bags or raise quota_gb"
            )
        free = self.free()
        if free - expected < self.keep_free:
            return (
                f"the disk of {self.folder} has {_text(free)} free, an episode needs about {_text(expected)} and "
                f"{_text(self.keep_free)} must stay free; make room or lower keep_free_gb"
            )
        return ""

    def exhausted(self, running: int) -> str:
        """Why a running episode must end now, in one sentence; empty when it need not.

        Half of what must stay free is for finishing the bag.

        Args:
            running: Bytes of the running episode, which lies in the folder too.
        """
        if self._is_beyond(running, running):
            return f"the quota of {_text(self.limit)} for {self.folder} is used up"
        free = self.free()
        if free < self.keep_free / 2:
            return f"the disk of {self.folder} has only {_text(free)} free"
        return ""

    def finished(self, size: int) -> None:
        """An episode of this many bytes was kept."""
        self._recent.append(size)
        if self._used >= 0:
            self._used += size

    def _is_beyond(self, more: int, running: int = 0) -> bool:
        """Whether so many bytes more are too many, also after another look: bags may have been deleted."""
        if not self.limit or self.used + more <= self.limit:
            return False
        self._used = max(folder_size(self.folder) - running, 0)
        return self.used + more > self.limit

    def free(self) -> int:
        """Free bytes on the disk of the folder."""
        place = self.folder
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free


def folder_size(folder: Path) -> int:
    """Bytes of all files in a folder and its subfolders, or of a file; 0 when there is none."""
    if folder.is_file():
        return folder.stat().st_size
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except FileNotFoundError:
                # Deleted while we looked.
                continue
    return total


def _text(size: float) -> str:
    return f"{size / _GIGABYTE:.2f} GB" if size >= _GIGABYTE else f"{size / 1e6:.1f} MB"
