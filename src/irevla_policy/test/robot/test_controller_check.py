"""The controller of the command topic, as the controller manager lists it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from irevla_policy.robot.controller_check import controller_of, controller_problem
from irevla_policy.robot.profile import RobotProfile, load_profile

PANDA = load_profile("panda")
NAME = "joint_trajectory_controller"


def commanded_by(topic: str) -> RobotProfile:
    return replace(PANDA, command=replace(PANDA.command, topic=topic))


@pytest.mark.parametrize(
    ("topic", "owner"),
    [
        (f"/{NAME}/joint_trajectory", ("", NAME)),
        ("/left/arm/forward_position_controller/commands", ("/left/arm", "forward_position_controller")),
        ("/commands", ("", "")),
    ],
)
def test_the_topic_names_its_controller(topic: str, owner: tuple[str, str]) -> None:
    assert controller_of(commanded_by(topic)) == owner


def test_an_active_controller_is_no_problem() -> None:
    assert controller_problem(PANDA, {"joint_state_broadcaster": "inactive", NAME: "active"}) == ""
    assert controller_problem(commanded_by("/commands"), {}) == ""


@pytest.mark.parametrize(
    ("states", "sentence"),
    [
        (
            {"joint_state_broadcaster": "active", NAME: "inactive"},
            f"controller '{NAME}' of /{NAME}/joint_trajectory is inactive: change the topic there, or "
            f"`ros2 control switch_controllers --activate {NAME}`",
        ),
        (
            {NAME: "unconfigured"},
            f"is unconfigured: change the topic there, or `ros2 control set_controller_state {NAME} inactive` and "
            f"`ros2 control switch_controllers --activate {NAME}`",
        ),
        (
            {"joint_state_broadcaster": "active", "other": "inactive"},
            f"/{NAME}/joint_trajectory belongs to controller '{NAME}', which is not loaded (there are: "
            "joint_state_broadcaster (active), other (inactive)): change the topic there, or "
            f"`ros2 control load_controller --set-state active {NAME}`",
        ),
        ({}, "which is not loaded (there are: none)"),
    ],
    ids=["inactive", "unconfigured", "another", "none"],
)
def test_a_controller_that_is_not_active_is_refused_with_the_line(states: dict[str, str], sentence: str) -> None:
    problem = controller_problem(PANDA, states)
    lines = Path(PANDA.file).read_text().splitlines()
    line = next(number for number, text in enumerate(lines, start=1) if text.startswith("command:"))
    assert problem.startswith(f"{PANDA.file}:{line}: command: topic: ")
    assert sentence in problem


def test_a_manager_elsewhere_is_named() -> None:
    problem = controller_problem(commanded_by(f"/left/{NAME}/joint_trajectory"), {NAME: "inactive"})
    assert f"`ros2 control switch_controllers -c /left/controller_manager --activate {NAME}`" in problem
