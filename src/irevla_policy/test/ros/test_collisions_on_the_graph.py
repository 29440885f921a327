"""A guard that checks commands for collisions stops the arm in front of the table, and says what that costs."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml
from stand_in_robot import StandInRobot, finish

from irevla_msgs.msg import Command, PolicyStatus
from irevla_policy.robot.collision import CollisionModel
from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.profile import load_profile
from irevla_policy.robot.proposal import Proposal
from irevla_policy.ros.guard_messages import action_message

PANDA = load_profile("panda")
INTO_THE_TABLE = np.array(PANDA.home) + np.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0])


def test_the_arm_stops_in_front_of_the_table(tmp_path: Path) -> None:
    document = yaml.safe_load(PANDA.urdf_path.with_name("panda.yaml").read_text())
    document["workspace"] = {"low": [-0.9, -0.9, -0.3], "high": [0.9, 0.9, 1.2]}  # does not keep it off the table
    document["kinematics"]["urdf"] = str(PANDA.urdf_path)
    document["cameras"] = document["cameras"][:1]
    (tmp_path / "profile.yaml").write_text(yaml.safe_dump(document))
    robot = StandInRobot(replace(PANDA, cameras=PANDA.cameras[:1]))
    words = ["-p", f"robot:={tmp_path / 'profile.yaml'}", "-p", "check_collisions:=true"]
    guard = robot.start("-m", "irevla_policy.ros.guard_node", "--ros-args", *words)
    try:
        robot.wait_for_state(PolicyStatus.STATE_HOLDING, seconds=15.0)
        target = action_message(Proposal(0, (), PANDA.joint_names, tuple(INTO_THE_TABLE.tolist())))
        deadline = time.monotonic() + 10.0
        while not (robot.commands and robot.commands[-1].limited & Command.LIMITED_COLLISION):
            assert time.monotonic() < deadline, robot.status
            robot.interventions.publish(target)
            time.sleep(0.1)
        robot.wait_for_state(PolicyStatus.STATE_HOLDING)
        robot.wait(lambda: not np.any(robot.commands[-1].velocities), "rest")
        cost = "collision_check_p99_ms"
        robot.wait(lambda: cost in {one.key for one in robot.diagnosed["irevla_guard"].values}, "the cost")
    finally:
        output = finish(guard)
        robot.close()
    assert guard.returncode == 0, output
    collisions = CollisionModel(PANDA)
    assert not any(collisions.touching(position) for _, position in robot.path)
    assert ArmKinematics(PANDA).position(robot.measured)[2] < 0.05  # it went as near as that
    [figure] = [one.value for one in robot.diagnosed["irevla_guard"].values if one.key == cost]
    assert 0.0 < float(figure) < 20.0
