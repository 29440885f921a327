"""When the guard sends what: stamps, lead, and what becomes of ticks that are late."""

from __future__ import annotations

import numpy as np
import pytest

from irevla_policy.robot.decision import Decision, Source
from irevla_policy.robot.limits import Setpoint
from irevla_policy.robot.profile import load_profile
from irevla_policy.ros.command_output import CommandOutput
from irevla_policy.ros.messages import nanoseconds

TICK = 20_000_000
START = 1_700_000_000_000_000_000


class Robot:
    """Stands in for a node: keeps what is published on the robot's topic."""

    def __init__(self, name: str) -> None:
        self.now = START
        self.sent = []
        self.profile = load_profile(name)
        assert round(1e9 / self.profile.guard_rate) == TICK
        self.output = CommandOutput(self, self.profile, False, lambda: self.now)

    def create_publisher(self, kind, topic, qos):
        robot = self

        class Publisher:
            def publish(self, message):
                if topic == robot.profile.command.topic:
                    robot.sent.append(message)

        return Publisher()

    def send(self):
        """One setpoint of an arm that holds."""
        return self.output.send(Decision(Source.HOLD, 0, [Setpoint(np.zeros(7), np.zeros(7))], 0.0))

    def tick(self):
        """What the guard does at every tick; returns the stamps of what it sent, in ticks from the start."""
        before = len(self.sent)
        while self.output.is_due and self.send():
            assert len(self.sent) < before + 10
        return [(nanoseconds(message.header.stamp) - START) / TICK for message in self.sent[before:]]


@pytest.fixture
def robot():
    return Robot("panda")


def test_a_trajectory_is_sent_a_tick_before_it_starts(robot):
    for tick in range(5):
        robot.now = START + tick * TICK
        assert robot.tick() == [tick + 1.0]


@pytest.mark.parametrize(
    ("late", "stamps"), [(0.4, [2.0]), (0.6, [2.0, 3.0]), (1.0, [2.0, 3.0]), (1.9, [2.0, 3.0, 4.0])]
)
def test_late_ticks_are_caught_up_with_on_the_same_grid(robot, late, stamps):
    assert robot.tick() == [1.0]
    robot.now += round((1 + late) * TICK)
    assert robot.tick() == stamps
    robot.now = START + round(stamps[-1] * TICK)
    assert robot.tick() == [stamps[-1] + 1.0]


def test_after_a_long_silence_a_new_grid_begins(robot):
    robot.tick()
    robot.now += 10 * TICK + 3
    assert robot.tick() == [11 + 3 / TICK]


def test_an_action_may_send_one_setpoint_ahead_and_the_tick_after_it_none(robot):
    robot.tick()
    robot.now += TICK // 2
    assert robot.output.may_send_ahead
    robot.send()
    assert not robot.output.may_send_ahead
    robot.now = START + TICK
    assert robot.tick() == []
    robot.now = START + 2 * TICK
    assert robot.tick() == [3.0]


@pytest.mark.parametrize("ticks", [3, 25, 250])
def test_a_clock_that_was_set_back_begins_a_new_grid(robot, ticks):
    robot.tick()
    robot.now -= ticks * TICK
    assert robot.tick() == [1.0 - ticks]


def test_positions_without_a_stamp_are_never_sent_in_a_burst():
    robot = Robot("panda_forward")
    for now in (0.0, 1.0, 2.9, 3.9, 4.9, 8.0, 9.0):
        robot.now = START + round(now * TICK)
        before = len(robot.sent)
        while robot.output.is_due:
            robot.send()
        assert len(robot.sent) == before + 1
