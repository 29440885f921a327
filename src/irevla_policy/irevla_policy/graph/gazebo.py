"""The graph `gazebo`: the tabletop in Gazebo Harmonic, on the topics of a physical arm, and the nodes of `arm`.

Gazebo and ros2_control come from ROS (ros_gz, gz_ros2_control, ros2_controllers); `gz sim -g` shows the world.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from irevla_policy.graph import arm, shared
from irevla_policy.graph.description import Argument, Graph, GraphDescription, NodeSpec
from irevla_policy.robot.profile import load_profile
from irevla_policy.sim.tasks import load_tasks

_TABLETOP = "tabletop"

_OWN = (
    Argument("task", "", "Task whose things stand on the table; empty for the first of the tabletop"),
    Argument("seed", "0", "Where they stand"),
    Argument("files", "", "Folder for the files of Gazebo and ros2_control; empty for a temporary one"),
)
_OTHERWISE = {"tasks": _TABLETOP, "robot_timeout": "60"}  # Gazebo and its controllers take long to come up

ARGUMENTS = (
    *_OWN,
    *(
        Argument(item.name, _OTHERWISE.get(item.name, item.default), item.description, item.choices)
        for item in arm.ARGUMENTS
    ),
)


def build(values: Mapping[str, str]) -> Graph:
    """The graph for a value of every argument; writes the files of Gazebo.

    Raises:
        UserError: A number is none, or out of range; there is no such robot, task, checkpoint or file; Gazebo's world
            cannot hold them.
    """
    # MuJoCo is slow to import, and the other graphs do without.
    from irevla_policy.sim.gazebo import BROADCASTER, write_gazebo

    seed = shared.whole_number("gazebo", values, "seed", 0, 2**31 - 1)
    tasks = load_tasks(values["tasks"] or _TABLETOP)
    beside = arm.nodes("gazebo", values, {"use_sim_time": True})
    folder = Path(values["files"]) if values["files"] else None
    files = write_gazebo(folder, load_profile(values["robot"]), tasks, values["task"] or tasks.first_task, seed)

    def node(name: str, package: str, executable: str, **rest: object) -> NodeSpec:
        return NodeSpec(name, package, executable, log_level=values["log_level"], **rest)  # type: ignore[arg-type]

    gazebo = [
        node("gazebo", "ros_gz_sim", "gzserver", parameters={"world_sdf_file": str(files.world)}),
        node(
            "robot_state_publisher",
            "robot_state_publisher",
            "robot_state_publisher",
            parameters={"robot_description": files.robot.read_text(), "use_sim_time": True},
        ),
        node(
            "spawn_robot",
            "ros_gz_sim",
            "create",
            arguments=("-topic", "robot_description", "-name", "robot"),
            required=False,
        ),
        node("bridge", "ros_gz_bridge", "parameter_bridge", parameters={"config_file": str(files.bridge)}),
        node(
            "spawn_controllers",
            "controller_manager",
            "spawner",
            arguments=(BROADCASTER, files.controller, "--param-file", str(files.controllers)),
            required=False,
        ),
    ]
    environment = dict(shared.environment("gazebo", values))
    # Gazebo looks for the plugin of ros2_control where ROS has its libraries.
    places = [os.environ.get("GZ_SIM_SYSTEM_PLUGIN_PATH", ""), os.environ.get("LD_LIBRARY_PATH", "")]
    environment["GZ_SIM_SYSTEM_PLUGIN_PATH"] = os.pathsep.join(place for place in places if place)
    packages = ("gz_ros2_control", "ros2_controllers")
    return Graph("gazebo", (*gazebo, *beside), environment, packages)


GAZEBO = GraphDescription("gazebo", "the tabletop in Gazebo, on the topics of a physical arm", ARGUMENTS, build)
