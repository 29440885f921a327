"""MP4 videos of episodes: one, or several side by side with captions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Frame = npt.NDArray[np.uint8]

_BAR = 28
_OUTCOMES = {True: ("success", (63, 158, 99)), False: ("no success", (196, 78, 66))}


@dataclass(frozen=True)
class Clip:
    """Frames of one episode and what to write above them.

    Attributes:
        caption: Text above the frames.
        frames: RGB frames, uint8 `[H, W, 3]`, at least one.
        success: How the episode ended; shown on the last frame.
    """

    caption: str
    frames: Sequence[Frame]
    success: bool | None = None


def write_video(path: Path, frames: Iterable[Frame], rate: float) -> None:
    """Write RGB frames of one size as H.264.

    Args:
        path: File to write; its folder is made.
        frames: uint8 `[H, W, 3]` each, H and W even.
        rate: Frames per second.

    Raises:
        ValueError: There are no frames.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = None
    for frame in frames:
        if writer is None:
            size = (frame.shape[1], frame.shape[0])
            writer = imageio_ffmpeg.write_frames(str(path), size, fps=rate, macro_block_size=2, quality=7)
            writer.send(None)
        writer.send(np.ascontiguousarray(frame))
    if writer is None:
        raise ValueError(f"{path}: no frames to write")
    writer.close()


def side_by_side(clips: Sequence[Clip], size: int = 320, hold: int = 15) -> list[Frame]:
    """Play clips next to each other; a shorter one waits on its last frame, its outcome written on it.

    Args:
        clips: What to show, from left to right.
        size: Width and height of each clip, px; even.
        hold: How many frames the end stays.

    Returns:
        RGB frames, uint8 `[size + caption, size * clips, 3]`.
    """
    length = max(len(clip.frames) for clip in clips) + hold
    return [np.concatenate([_panel(clip, index, size) for clip in clips], axis=1) for index in range(length)]


def _panel(clip: Clip, index: int, size: int) -> Frame:
    ended = index >= len(clip.frames) - 1
    picture = Image.fromarray(clip.frames[min(index, len(clip.frames) - 1)])
    panel = Image.new("RGB", (size, size + _BAR), (18, 23, 29))
    panel.paste(picture.resize((size, size), Image.Resampling.BICUBIC), (0, _BAR))
    draw = ImageDraw.Draw(panel)
    font = ImageFont.load_default(14)
    draw.text((8, 6), clip.caption, fill=(230, 234, 238), font=font)
    if ended and clip.success is not None:
        text, colour = _OUTCOMES[clip.success]
        draw.rectangle((0, size + _BAR - 24, size, size + _BAR), fill=colour)
        draw.text((8, size + _BAR - 21), text, fill=(255, 255, 255), font=font)
    return np.asarray(panel)
