"""The graph `replay`: bags played onto the topics of the robot, and a recorder that takes them as if it were live."""

from __future__ import annotations

import os
from collections.abc import Mapping

from irevla_policy.graph import shared
from irevla_policy.graph.description import Argument, Graph, GraphDescription, GraphError, NodeSpec
from irevla_policy.recording.storage import find_bags
from irevla_policy.robot.profile import load_profile

ARGUMENTS = (
    Argument("bag", "", "Bags, or folders of bags, with commas between them; played in the order of their paths"),
    Argument("rate", "1.0", "Speed, 1 is the robot's; 0 as fast as the recorder takes them"),
    Argument("robot", "sawyer", "Robot profile: name in config/robots, or path of a YAML file"),
    Argument("record", "replayed", "Folder for the recorder's bags; none when a recorder runs already"),
    Argument(
        "image_format",
        "raw",
        "How the recorder takes images: as they are, compressing them, or those that are compressed in the bag",
        ("raw", "jpeg", "png", "driver"),
    ),
    *shared.ARGUMENTS,
)


def build(values: Mapping[str, str]) -> Graph:
    """The graph for a value of every argument.

    Raises:
        UserError: There is no such bag, robot or file.
    """
    load_profile(values["robot"])
    bags = [os.path.abspath(path) for path in values["bag"].split(",") if path]
    if not bags:
        raise GraphError("graph 'replay': argument bag: expected a bag or a folder of bags, bag:=DIR")
    for path in bags:
        find_bags(path)
    rate, record = shared.number("replay", values, "rate", 0.0, 1000.0), shared.recorder_folder(values)
    parameters_file, level = shared.parameters_file("replay", values), values["log_level"]
    player = NodeSpec(
        name="irevla_player",
        package="irevla_trainer",
        executable="irevla_player",
        module="irevla_trainer.ros.player_node",
        parameters={"bags": bags, "rate": rate},
        parameters_file=parameters_file,
        log_level=level,
        finishes=True,
    )
    recorder = NodeSpec(
        name="irevla_recorder",
        package="irevla_policy",
        executable="irevla_recorder",
        module="irevla_policy.ros.recorder_node",
        parameters={
            "robot": values["robot"],
            # What is played comes as from a world that waits.
            "lock_step": True,
            "folder": record,
            "image_format": values["image_format"],
        },
        parameters_file=parameters_file,
        log_level=level,
    )
    return Graph("replay", (recorder, player) if record else (player,), shared.environment("replay", values))


REPLAY = GraphDescription("replay", "bags played onto the graph, and recorded as if they were live", ARGUMENTS, build)
