"""Chunks one after the other, against what can be written down by hand."""

from __future__ import annotations

import numpy as np
import pytest

from irevla_policy.robot.chunks import Chunks, shortage

RATE = 10.0
PERIOD = 100_000_000


def chunk(*values: float, gripper: float = 0.0) -> np.ndarray:
    """One action per value: the value, then the gripper."""
    return np.array([[value, gripper] for value in values])


def ramp(start: float, size: int = 8) -> np.ndarray:
    """Action k is start + k."""
    return chunk(*(start + np.arange(size)))


def chunks(blend: int = 0) -> Chunks:
    return Chunks(RATE, blend, gripper=True)


def answers(made: Chunks, first: int, last: int) -> list[float | None]:
    """First value of the action for the observations of these periods, both included."""
    found = [made.action_at(index * PERIOD) for index in range(first, last + 1)]
    return [None if action is None else float(action[0]) for action in found]


def test_nothing_comes_of_nothing():
    assert answers(chunks(), 0, 1) == [None, None]


def test_a_chunk_answers_as_many_observations_as_it_has_actions():
    made = chunks()
    made.add(ramp(0.0, 3), 0)
    assert answers(made, 0, 4) == [0.0, 1.0, 2.0, None, None]


def test_actions_whose_observations_were_answered_meanwhile_are_skipped():
    made = chunks()
    made.add(ramp(0.0), 0)
    assert answers(made, 0, 4) == [0.0, 1.0, 2.0, 3.0, 4.0]
    made.add(ramp(102.0), 2 * PERIOD)  # of period 2, comes after period 4: begins with its action 3
    assert answers(made, 5, 9) == [105.0, 106.0, 107.0, 108.0, 109.0]
    assert answers(made, 10, 10) == [None]


def test_ramps_of_one_line_blend_into_that_line():
    made = chunks(blend=3)
    made.add(ramp(0.0), 0)
    assert answers(made, 0, 3) == [0.0, 1.0, 2.0, 3.0]
    made.add(ramp(2.0), 2 * PERIOD)
    assert answers(made, 4, 9) == pytest.approx([4.0, 5.0, 6.0, 7.0, 8.0, 9.0])


@pytest.mark.parametrize(
    ("blend", "expected"),
    [(0, [1.0, 1.0, 1.0, 1.0]), (1, [1 / 2, 1.0, 1.0, 1.0]), (3, [1 / 4, 2 / 4, 3 / 4, 1.0])],
)
def test_the_share_of_the_new_chunk_rises_in_equal_steps(blend, expected):
    made = chunks(blend)
    made.add(chunk(*[0.0] * 8), 0)
    made.action_at(0)
    made.add(chunk(*[1.0] * 8), 0)
    assert answers(made, 1, 4) == pytest.approx(expected)


def test_a_third_chunk_is_blended_with_what_the_two_before_it_give():
    made = chunks(blend=1)
    for value in (0.0, 1.0, 3.0):
        made.add(chunk(*[value] * 8), 0)
    assert answers(made, 0, 1) == pytest.approx([(0.0 / 2 + 1.0 / 2) / 2 + 3.0 / 2, 3.0])


def test_what_ends_within_the_blend_leaves_the_new_chunk_alone():
    made = chunks(blend=3)
    made.add(chunk(0.0, 0.0), 0)
    made.action_at(0)
    made.add(chunk(*[1.0] * 8), 0)
    assert answers(made, 1, 3) == pytest.approx([1 / 4, 1.0, 1.0])


def test_the_gripper_switches_to_the_chunk_with_the_larger_share():
    made = chunks(blend=3)
    made.add(chunk(*[0.0] * 8, gripper=-1.0), 0)
    made.action_at(0)
    made.add(chunk(*[1.0] * 8, gripper=0.9), 0)
    assert [made.action_at(index * PERIOD)[1] for index in range(1, 5)] == [-1.0, 0.9, 0.9, 0.9]


def test_without_a_gripper_the_last_value_is_blended_too():
    made = Chunks(RATE, 1, gripper=False)
    made.add(chunk(*[0.0] * 8, gripper=-1.0), 0)
    made.add(chunk(*[0.0] * 8, gripper=1.0), 0)
    assert made.action_at(0)[1] == 0.0


def test_after_a_hold_the_motion_goes_on_where_it_stopped():
    made = chunks()
    made.add(ramp(0.0, 4), 0)
    assert answers(made, 0, 5) == [0.0, 1.0, 2.0, 3.0, None, None]
    made.add(ramp(102.0), 2 * PERIOD)  # periods 2 and 3 were answered since; in 4 and 5 the arm stood still
    assert answers(made, 6, 9) == [104.0, 105.0, 106.0, 107.0]
    assert answers(made, 10, 10) == [None], "its time is over, though not all of it was carried out"


def test_the_first_chunk_begins_with_its_first_action():
    made = chunks()
    made.add(ramp(0.0), 0)
    assert answers(made, 3, 8) == [0.0, 1.0, 2.0, 3.0, 4.0, None]


def test_a_chunk_that_comes_after_its_time_is_not_carried_out():
    made = chunks()
    for start in range(0, 12, 3):
        made.add(ramp(0.0, 3), start * PERIOD)
        assert answers(made, start + 3, start + 3) == [None]


def test_stamps_need_not_be_on_a_grid():
    made = chunks()
    made.add(ramp(0.0, 4), 0)
    stamps = [0, PERIOD + 30_000_000, 2 * PERIOD - 30_000_000, 3 * PERIOD + 40_000_000]
    assert [made.action_at(stamp)[0] for stamp in stamps] == [0.0, 1.0, 2.0, 3.0]


def test_clear_forgets_chunks_and_what_was_answered():
    made = chunks(blend=2)
    made.add(ramp(0.0), 0)
    answers(made, 0, 3)
    made.clear()
    assert answers(made, 4, 4) == [None]
    assert made.newest == 0
    made.add(ramp(100.0), 2 * PERIOD)
    assert answers(made, 5, 5) == [100.0], "neither blended nor skipped"


def test_what_it_gives_can_be_changed_without_changing_the_chunk():
    made, actions = chunks(), ramp(0.0, 2)
    made.add(actions, 0)
    made.action_at(0)[:] = 7.0
    assert actions[0].tolist() == [0.0, 0.0]


def without_gaps(size: int, seconds: float) -> bool:
    """Whether a model that is always at work on the newest observation, the oldest that it can be, keeps up."""
    made, came, began_on = chunks(), None, 0
    clock = 0.999 / RATE  # the pass begins right before the next observation
    for index in range(200):
        now = index / RATE
        while clock + seconds < now:
            clock += seconds
            made.add(ramp(0.0, size), began_on * PERIOD)
            came, began_on = True, int(clock * RATE)
        if made.action_at(index * PERIOD) is None and came:
            return False
    return True


@pytest.mark.parametrize("seconds", [0.07, 0.24, 0.31, 0.47])
def test_what_is_said_to_be_enough_is_enough_and_not_less(seconds):
    sentence = shortage(1, RATE, seconds)
    enough = int(sentence.split("at least ")[1].split()[0])
    assert without_gaps(enough, seconds)
    assert not without_gaps(enough - 1, seconds)
    assert f"{seconds:.2f} s" in sentence and "10 Hz" in sentence


def test_a_pass_that_is_said_to_be_quick_enough_is():
    limit = float(shortage(8, RATE, 0.5).split("below ")[1].split()[0])
    assert limit == 0.35
    assert without_gaps(8, limit - 0.01)
    assert not without_gaps(8, limit + 0.06)
