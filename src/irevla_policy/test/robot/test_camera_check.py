"""Cameras against their profile: each thing that can be otherwise is refused with the line to change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from irevla_policy.paths import config_folder
from irevla_policy.robot.camera_check import (
    Calibration,
    FrameRate,
    Picture,
    check_calibration,
    check_picture,
    rate_problem,
)
from irevla_policy.robot.profile import load_profile
from irevla_policy.settings import SettingsError

PANDA = load_profile("panda")
TOPIC, INFO = "/wrist_camera/image_raw", "/wrist_camera/camera_info"
GOOD = Picture(128, 128, "rgb8", "wrist_optical_frame")
CALIBRATED = Calibration(128, 128, (83.4, 83.4, 63.5, 63.5))


def line_of(key: str) -> int:
    """Where the shipped profile says something of its second camera, counted from 1."""
    lines = (config_folder() / "robots" / "panda.yaml").read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if "name: wrist" in line)
    return next(number for number in range(first, len(lines)) if f"{key}: " in lines[number]) + 1


def test_what_is_promised_passes() -> None:
    check_picture(PANDA, 1, TOPIC, GOOD)
    check_picture(PANDA, 1, TOPIC + "/compressed", dataclasses.replace(GOOD, encoding=""))
    check_calibration(PANDA, 1, INFO, CALIBRATED)
    check_calibration(PANDA, 1, INFO, dataclasses.replace(CALIBRATED, intrinsics=(85.9, 81.0, 66.0, 61.0)))
    assert rate_problem(PANDA, 1, TOPIC, 8.0) == ""


def test_what_is_not_promised_is_not_checked() -> None:
    sawyer = load_profile("sawyer")
    check_picture(sawyer, 0, TOPIC, Picture(96, 96, "rgb8", "anything"))
    check_calibration(sawyer, 0, INFO, Calibration(0, 0, (0.0, 0.0, 0.0, 0.0)))


@pytest.mark.parametrize(
    ("change", "key", "sentence"),
    [
        ({"encoding": "bgr8"}, "encoding", f"{TOPIC} comes as bgr8, promised is rgb8: change it there or in the"),
        (
            {"width": 640, "height": 480},
            "width",
            f"{TOPIC} comes with 640 x 480 px, promised is 128 x 128 px: change it",
        ),
        ({"height": 96}, "height", f"{TOPIC} comes with 128 x 96 px, promised is 128 x 128 px"),
        ({"frame": "camera"}, "frame", f"{TOPIC} comes from frame 'camera', promised is 'wrist_optical_frame'"),
    ],
)
def test_another_picture_is_refused(change: dict, key: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check_picture(PANDA, 1, TOPIC, dataclasses.replace(GOOD, **change))
    assert str(caught.value).startswith(f"{PANDA.file}:{line_of(key)}: cameras[1]: {key}: {sentence}")


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (Calibration(0, 0, (0.0, 0.0, 0.0, 0.0)), "has no calibration (K is 0): calibrate the camera"),
        (
            dataclasses.replace(CALIBRATED, width=640, height=480),
            "is for images of 640 x 480 px, promised are 128 x 128",
        ),
        (Calibration(128, 128, (90.0, 83.4, 63.5, 63.5)), "says fx 90.00 px, promised are 83.41 px, give or take 2.56"),
        (Calibration(128, 128, (83.4, 83.4, 63.5, 70.0)), "says cy 70.00 px, promised are 63.5 px, give or take 2.56"),
        (Calibration(128, 128, (83.4, float("nan"), 63.5, 63.5)), "says fy nan px"),
    ],
)
def test_another_calibration_is_refused(found: Calibration, sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check_calibration(PANDA, 1, INFO, found)
    assert str(caught.value).startswith(f"{PANDA.file}:{line_of('intrinsics')}: cameras[1]: intrinsics: {INFO} ")
    assert sentence in str(caught.value)


def test_a_slow_camera_is_refused() -> None:
    problem = rate_problem(PANDA, 1, TOPIC, 5.1)
    assert problem == (
        f"{PANDA.file}:{line_of('rate')}: cameras[1]: rate: {TOPIC} comes at 5.1 Hz, promised are 10 Hz: "
        "lower it there or raise the driver's"
    )


def measured(promised: float, arrivals: np.ndarray, now: float) -> float | None:
    rate = FrameRate(promised)
    for arrival in arrivals:
        rate.on_frame(float(arrival))
    return rate.measured(now)


@pytest.mark.parametrize("hertz", [2.0, 10.0, 30.0, 200.0])
@pytest.mark.parametrize("phase", [0.0, 0.3, 0.9])
def test_a_steady_rate_is_measured(hertz: float, phase: float) -> None:
    arrivals = 7.0 + np.arange(0.0, 6.0, 1.0 / hertz)
    assert measured(hertz, arrivals, arrivals[-1] + phase / hertz) == pytest.approx(hertz, rel=1e-6)
    # Half of what is promised, as soon as it can be known.
    slow = 7.0 + np.arange(0.0, 6.0, 2.0 / hertz)
    assert measured(hertz, slow, slow[-1]) == pytest.approx(0.5 * hertz, rel=0.01)


def test_nothing_is_said_before_a_window_is_over() -> None:
    assert measured(10.0, np.array([]), 5.0) is None
    assert measured(10.0, np.array([4.5, 4.6, 4.7]), 5.0) is None


def test_a_camera_that_stopped_does_not_keep_its_rate() -> None:
    arrivals = np.arange(0.0, 1.5, 0.1)
    at = [measured(10.0, arrivals, now) for now in (1.4, 1.9, 2.2, 4.0)]
    assert at[0] == pytest.approx(10.0)
    assert at[1] == pytest.approx(5.0, abs=1.0)
    assert at[2] is not None and at[2] < 3.0
    assert at[3] == 0.0


def test_a_camera_that_got_faster_is_as_fast_as_it_is_now() -> None:
    arrivals = np.concatenate([np.arange(0.0, 5.0, 0.5), np.arange(5.0, 6.5, 0.1)])
    assert measured(10.0, arrivals, 6.4) == pytest.approx(10.0, rel=0.01)


@pytest.fixture
def own(tmp_path: Path) -> Callable[[str, str], Path]:
    """A copy of a shipped profile with some text replaced."""

    def write(old: str, new: str) -> Path:
        source = config_folder() / "robots"
        text = (source / "panda.yaml").read_text().replace("urdf: panda.urdf", f"urdf: {source / 'panda.urdf'}")
        assert old in text
        path = tmp_path / "own.yaml"
        path.write_text(text.replace(old, new))
        return path

    return write


def test_frame_and_intrinsics_leave_recorded_data_comparable(own: Callable[[str, str], Path]) -> None:
    other = load_profile(own("frame: wrist_optical_frame, intrinsics: {fx: 83.41", "intrinsics: {fx: 90.0"))
    assert (other.cameras[1].frame, other.cameras[1].intrinsics.fx) == ("", 90.0)
    assert other.training_hash == PANDA.training_hash


def test_intrinsics_that_are_none_are_refused(own: Callable[[str, str], Path]) -> None:
    with pytest.raises(SettingsError, match=r"cameras\[1\]: intrinsics: fx: must be in \(0, 100000\] px, found -1"):
        load_profile(own("fx: 83.41", "fx: -1"))


def test_cameras_of_one_namespace_have_no_calibration_of_their_own(own: Callable[[str, str], Path]) -> None:
    assert PANDA.info_topics == {"scene": "/camera/camera_info", "wrist": "/wrist_camera/camera_info"}
    assert load_profile(own("/wrist_camera/image_raw", "/camera/wrist")).info_topics == {}
