"""Reports and videos: one file that holds everything, and frames that decode to what was put in."""

from __future__ import annotations

import re
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from irevla_trainer.report import Curve, Report
from irevla_trainer.video import Clip, side_by_side, write_video


def _clip(value: int, length: int, success: bool) -> Clip:
    return Clip(f"value {value}", [np.full((96, 96, 3), value, np.uint8)] * length, success)


def test_report_is_self_contained(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", _clip(90, 5, True).frames, 10.0)
    report = Report("A <run>", "two tasks")
    report.section("Result", "after & before")
    report.cards({"after": "0.90"})
    report.table(["task", "success"], [["drawer-open", 0.9]])
    report.chart([Curve("loss", [0, 1, 2], [1.0, 0.5, 0.2])], x="epoch", y="loss", log_y=True)
    report.bars(["drawer-open"], {"before": [(0.0, 0.0, 0.07)], "after": [(0.9, 0.79, 0.96)]}, y="success")
    report.video(tmp_path / "clip.mp4", "a clip")
    report.write(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "A &lt;run&gt;" in text and "after &amp; before" in text
    assert text.count("<svg") == 2 and "data:video/mp4;base64," in text
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', text)


def test_side_by_side_waits_for_the_longer_clip_and_shows_the_outcome(tmp_path: Path) -> None:
    frames = side_by_side([_clip(40, 3, False), _clip(200, 6, True)], size=96, hold=2)
    assert len(frames) == 8
    assert {frame.shape for frame in frames} == {(124, 192, 3)}
    assert (frames[0][60, 10] == 40).all() and (frames[0][60, 150] == 200).all()
    red, green = frames[-1][118, 90].astype(int), frames[-1][118, 180].astype(int)
    assert red[0] > red[1] and green[1] > green[0]
    write_video(tmp_path / "v.mp4", frames, 10.0)
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "v.mp4"))
    assert next(reader)["size"] == (192, 124)
    decoded = np.frombuffer(next(reader), np.uint8).reshape(124, 192, 3)
    assert abs(int(decoded[60, 10, 0]) - 40) < 8


def test_a_video_without_frames_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no frames"):
        write_video(tmp_path / "v.mp4", [], 10.0)
