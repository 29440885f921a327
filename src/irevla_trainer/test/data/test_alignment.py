"""Alignment: by stamps alone, whatever arrives in whatever order, doubled or not at all."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from irevla_trainer.data.alignment import align, in_force

PERIOD = 50

grids = st.lists(st.integers(0, 60), min_size=0, max_size=40)


@given(decisions=grids, camera=grids, joints=grids, order=st.randoms(use_true_random=False))
def test_equal_stamps_meet(decisions: list[int], camera: list[int], joints: list[int], order: object) -> None:
    shuffled = [list(values) for values in (decisions, camera, joints)]
    for values in shuffled:
        order.shuffle(values)  # type: ignore[attr-defined]
    stamps = [[value * PERIOD for value in values] for values in shuffled]
    result = align(stamps[0], {"camera": stamps[1], "joints": stamps[2]}, {"camera": 0, "joints": 0})
    kept = [stamps[0][place] for place in result.decisions]
    assert kept == sorted(set(stamps[0]) & set(stamps[1]) & set(stamps[2]))
    for name, given_ in (("camera", stamps[1]), ("joints", stamps[2])):
        assert [given_[place] for place in result.sensors[name]] == kept
    assert len(kept) + sum(result.dropped.values()) == len(decisions)


@given(
    decisions=st.lists(st.integers(0, 2000), max_size=30, unique=True),
    sensor=st.lists(st.integers(0, 2000), max_size=30),
    slop=st.integers(0, 100),
)
def test_the_nearest_within_the_slop_is_taken(decisions: list[int], sensor: list[int], slop: int) -> None:
    result = align(decisions, {"sensor": sensor}, {"sensor": slop})
    expected = {stamp for stamp in decisions if any(abs(stamp - other) <= slop for other in sensor)}
    assert {decisions[place] for place in result.decisions} == expected
    for place, other in zip(result.decisions, result.sensors["sensor"], strict=True):
        distance = abs(sensor[other] - decisions[place])
        assert distance == min(abs(stamp - decisions[place]) for stamp in sensor)


@given(decisions=st.lists(st.integers(0, 500), max_size=30), order=st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_nothing(decisions: list[int], order: object) -> None:
    sensor = list(range(0, 500, 7))
    mixed = list(sensor)
    order.shuffle(mixed)  # type: ignore[attr-defined]
    plain = align(decisions, {"sensor": sensor}, {"sensor": 3})
    other = align(decisions, {"sensor": mixed}, {"sensor": 3})
    assert [sensor[i] for i in plain.sensors["sensor"]] == [mixed[i] for i in other.sensors["sensor"]]
    np.testing.assert_array_equal(plain.decisions, other.decisions)


def test_of_repeated_stamps_the_first_counts() -> None:
    result = align([10, 20, 10], {"camera": [20, 10, 10, 20]}, {"camera": 0})
    assert result.decisions.tolist() == [0, 1]
    assert result.sensors["camera"].tolist() == [1, 0]
    assert dict(result.dropped) == {"repeated stamp": 1}


def test_reasons_name_the_first_sensor_without_a_message() -> None:
    result = align([1, 2, 3], {"left": [1, 3], "right": [1]}, {"left": 0, "right": 0})
    assert result.decisions.tolist() == [0]
    assert dict(result.dropped) == {"no left at the stamp": 1, "no right at the stamp": 1}


@given(times=st.lists(st.integers(0, 100), max_size=20), at=st.lists(st.integers(-5, 110), max_size=20))
def test_the_newest_value_is_in_force(times: list[int], at: list[int]) -> None:
    for moment, place in zip(at, in_force(times, at), strict=True):
        earlier = [(time, index) for index, time in enumerate(times) if time <= moment]
        assert place == (max(earlier)[1] if earlier else -1)
