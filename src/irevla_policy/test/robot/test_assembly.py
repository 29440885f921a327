"""Observations are put together by stamp."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irevla_policy.robot.assembly import ObservationAssembler
from irevla_policy.robot.observation import ObservationError
from irevla_policy.robot.profile import load_profile

ONE = load_profile("sawyer")
TWO = replace(ONE, cameras=(*ONE.cameras, replace(ONE.cameras[0], name="wrist", topic="/wrist/image_raw")))
HOME = np.array(ONE.home)
IMAGE = np.zeros((ONE.cameras[0].height, ONE.cameras[0].width, 3), np.uint8)
MS = 1_000_000


def assembler(profile=ONE, slop=0.02):
    result = ObservationAssembler(profile, slop)
    result.set_instruction("go")
    return result


def test_complete_with_image_joints_and_instruction():
    parts = ObservationAssembler(ONE, 0.02)
    assert parts.add_joint_states(995 * MS, HOME, 0.05) is None
    assert parts.add_image("corner", 1000 * MS, IMAGE) is None
    assert parts.set_instruction(" go ").stamp == 1000 * MS
    seen = parts.add_image("corner", 1050 * MS, IMAGE)
    assert seen is None  # the joint states are too old
    seen = parts.add_joint_states(1049 * MS, HOME, 0.05)
    assert (seen.stamp, seen.instruction, seen.gripper) == (1050 * MS, "go", 0.05)
    assert parts.add_joint_states(1051 * MS, HOME, 0.05) is None


def test_two_cameras_take_the_nearest_stamps():
    parts = assembler(TWO)
    parts.add_joint_states(0, HOME, 0.0)
    old, new = IMAGE + 1, IMAGE + 2
    parts.add_image("wrist", 0, old)
    parts.add_image("wrist", 15 * MS, new)
    parts.add_joint_states(10 * MS, HOME, 0.0)
    seen = parts.add_image("corner", 12 * MS, IMAGE)
    assert list(seen.images) == ["corner", "wrist"]
    assert seen.images["wrist"] is new
    assert parts.add_image("corner", 62 * MS, IMAGE) is None
    parts.add_joint_states(62 * MS, HOME, 0.0)
    assert parts.add_image("wrist", 65 * MS, old).stamp == 62 * MS


def test_lock_step_demands_equal_stamps():
    parts = assembler(slop=0.0)
    parts.add_joint_states(49 * MS, HOME, 0.0)
    assert parts.add_image("corner", 50 * MS, IMAGE) is None
    assert parts.add_joint_states(50 * MS, HOME, 0.0).stamp == 50 * MS
    assert parts.add_joint_states(50 * MS, HOME, 0.0) is None
    assert parts.add_image("corner", 50 * MS, IMAGE) is None


def test_the_instruction_changes_within_an_episode():
    parts = assembler()
    parts.add_joint_states(0, HOME, 0.0)
    assert parts.add_image("corner", 1, IMAGE).instruction == "go"
    parts.set_instruction("stop")
    assert parts.add_image("corner", 2, IMAGE).instruction == "stop"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.add_image("nose", 0, IMAGE), "camera 'nose': not in profile 'metaworld_sawyer'; it has corner"),
        (lambda p: p.add_image("corner", 0, IMAGE[:5]), r"expected uint8 \[96, 96, 3\], found uint8 \[5, 96, 3\]"),
        (lambda p: p.add_image("corner", 0, IMAGE * 1.0), "found float64"),
        (lambda p: p.add_image("corner", 10**10, IMAGE, now=0), "stamp is 10.00 s in the future"),
        (lambda p: p.add_joint_states(10**10, HOME, 0.0, now=0), "joint states .*future"),
        (lambda p: p.add_joint_states(0, HOME * np.nan, 0.0), "expected 7 finite positions"),
        (lambda p: p.add_joint_states(0, HOME[:3], 0.0), "expected 7 finite positions"),
    ],
)
def test_what_is_wrong_is_named(call, message):
    with pytest.raises(ObservationError, match=message):
        call(assembler())


def test_stamps_from_the_past_are_reported_and_a_restarted_clock_is_not():
    parts = assembler()
    parts.add_image("corner", 5000 * MS, IMAGE)
    with pytest.raises(ObservationError, match=r"stamp is 0\.100 s before the newest one"):
        parts.add_image("corner", 4900 * MS, IMAGE)
    parts.add_joint_states(5000 * MS, HOME, 0.0)
    parts.add_joint_states(100 * MS, HOME, 0.0)
    assert parts.add_image("corner", 100 * MS, IMAGE).stamp == 100 * MS


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["corner", "wrist", "joints"]), st.integers(0, 60)), max_size=80))
def test_each_stamp_at_most_once_and_always_within_the_slop(events):
    parts = assembler(TWO, slop=0.02)
    times = {"corner": 0, "wrist": 0, "joints": 0}
    seen = []
    for name, step in events:
        times[name] += step * MS
        stamp = times[name]
        if name == "joints":
            made = parts.add_joint_states(stamp, np.full(7, float(stamp)), 0.0)
        else:
            made = parts.add_image(name, stamp, IMAGE)
        if made is not None:
            seen.append(made)
            assert abs(made.joint_positions[0] - made.stamp) <= 20 * MS
    stamps = [made.stamp for made in seen]
    assert stamps == sorted(set(stamps))
