"""The graph `arm`: guard, policy, homing and recorder beside the drivers of a physical arm and its cameras.

The drivers themselves (robot_state_publisher, ros2_control with its controller, cameras) come up on their own, or with
`ros2 launch irevla_policy arm.launch.py driver:=FILE cameras:=FILE`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from irevla_policy.graph import shared
from irevla_policy.graph.description import Argument, Graph, GraphDescription, NodeSpec, ParameterValue
from irevla_policy.robot.profile import load_profile
from irevla_policy.sim.tasks import load_tasks

_YES_NO = ("true", "false")

ARGUMENTS = (
    Argument("robot", "panda", "Robot profile: name in config/robots, or path of a YAML file"),
    Argument("checkpoint", "", "Folder of the checkpoint that acts; empty for teleoperation only"),
    Argument("device", "cpu", "Where the policy runs: cpu, cuda, cuda:1, ..."),
    Argument("tasks", "", "Tasks whose instructions /irevla/reset publishes: a name in config/tasks, or a YAML file"),
    Argument("dry_run", "false", "Decide and record everything, but send nothing to the robot", _YES_NO),
    Argument(
        "check_robot", "true", "Compare the robot, its controller and its cameras with the profile first", _YES_NO
    ),
    Argument("robot_timeout", "30", "Seconds that this waits for the drivers, up to 600"),
    Argument("check_collisions", "true", "Check the way home for collisions", _YES_NO),
    Argument("check_commands", "false", "Check every command for collisions, too", _YES_NO),
    Argument("moveit", "", "Parameter dump of the arm's move_group, to let MoveIt check and plan; empty for Pinocchio"),
    Argument("moveit_group", "", "MoveIt's planning group; empty when only one has the profile's joints"),
    Argument("homing_speed", "0.5", "Share of the joints' largest speeds on the way home, above 0, at most 1"),
    Argument("record", "bags", "Folder for the recorder's bags; none starts no recorder"),
    Argument("success", "", "Folder of a success classifier that labels the running episode; empty for none"),
    Argument("image_format", "jpeg", "How the recorder stores images", ("raw", "jpeg", "png")),
    *shared.ARGUMENTS,
)


def build(values: Mapping[str, str]) -> Graph:
    """The graph for a value of every argument.

    Raises:
        UserError: A number is none, or out of range; there is no such robot, checkpoint or file.
    """
    return Graph("arm", tuple(nodes("arm", values, {})), shared.environment("arm", values))


def nodes(graph: str, values: Mapping[str, str], every: Mapping[str, ParameterValue]) -> list[NodeSpec]:
    """The nodes beside the drivers.

    Args:
        graph: Name of the graph, for messages.
        values: Of all `ARGUMENTS`.
        every: Parameters that all of them get.

    Raises:
        UserError: As `build`.
    """
    load_profile(values["robot"])
    if values["tasks"]:
        load_tasks(values["tasks"])
    moveit = os.path.abspath(values["moveit"]) if values["moveit"] else ""
    checkpoint, parameters_file = shared.checkpoint(graph, values), shared.parameters_file(graph, values)

    def node(name: str, module: str, threads: int = 1, **parameters: ParameterValue) -> NodeSpec:
        return NodeSpec(
            name=name,
            package="irevla_policy",
            executable=name,
            module=f"irevla_policy.ros.{module}",
            parameters={"robot": values["robot"], **every, **parameters},
            parameters_file=parameters_file,
            environment={"OMP_NUM_THREADS": str(threads)},
            log_level=values["log_level"],
        )

    found = [
        node(
            "irevla_guard",
            "guard_node",
            check_robot=values["check_robot"] == "true",
            robot_timeout=shared.number(graph, values, "robot_timeout", 0.1, 600.0),
            latch=True,
            check_collisions=values["check_commands"] == "true",
            moveit=moveit,
            moveit_group=values["moveit_group"],
            dry_run=values["dry_run"] == "true",
        ),
        node(
            "irevla_arm",
            "arm_node",
            tasks=values["tasks"],
            speed=shared.number(graph, values, "homing_speed", 0.01, 1.0),
            check_collisions=values["check_collisions"] == "true",
            moveit=moveit,
            moveit_group=values["moveit_group"],
        ),
    ]
    if checkpoint:
        found.append(
            node(
                "irevla_policy",
                "policy_node",
                shared.policy_threads(),
                checkpoint=checkpoint,
                device=values["device"],
            )
        )
    if folder := shared.recorder_folder(values):
        found.append(node("irevla_recorder", "recorder_node", folder=folder, image_format=values["image_format"]))
    if values["success"]:
        classifier = os.path.abspath(values["success"])
        found.append(node("irevla_success", "success_node", classifier=classifier, device=values["device"]))
    return found


ARM = GraphDescription("arm", "guard, policy, homing and recorder beside a physical arm's drivers", ARGUMENTS, build)
