"""The graph `trainer`: the node that turns recorded episodes into better policies, beside any graph with a robot."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from irevla_policy.graph import shared
from irevla_policy.graph.description import Argument, Graph, GraphDescription, GraphError, NodeSpec
from irevla_policy.robot.profile import load_profile

ARGUMENTS = (
    Argument("robot", "sawyer", "Robot profile: name in config/robots, or path of a YAML file"),
    Argument("config", "trainer", "What a job is: a file in config without .yaml, or path of a YAML file"),
    Argument("folder", "trainer", "Folder of jobs, policies and the index of episodes"),
    Argument("watch", "bags", "Folders of bags whose episodes are learnt from, with commas between them"),
    Argument("checkpoint", "", "Checkpoint to start from when no policy node says what it serves"),
    Argument("resume", "true", "Whether jobs that were interrupted go on", ("true", "false")),
    *shared.ARGUMENTS,
)


def build(values: Mapping[str, str]) -> Graph:
    """The graph for a value of every argument.

    Raises:
        UserError: There is no such robot or file.
    """
    load_profile(values["robot"])
    config = values["config"]
    if config.endswith((".yaml", ".yml")):
        config = os.path.abspath(config)
        if not Path(config).is_file():
            raise GraphError(f"graph 'trainer': argument config: there is no file {config}")
    checkpoint = values["checkpoint"] and os.path.abspath(values["checkpoint"])
    node = NodeSpec(
        name="irevla_trainer",
        package="irevla_trainer",
        executable="irevla_trainer",
        module="irevla_trainer.ros.trainer_node",
        parameters={
            "robot": values["robot"],
            "config": config,
            "folder": os.path.abspath(values["folder"]),
            "watch": _watched(values["watch"]),
            "checkpoint": checkpoint,
            "resume": values["resume"] == "true",
        },
        parameters_file=shared.parameters_file("trainer", values),
        log_level=values["log_level"],
    )
    return Graph("trainer", (node,), shared.environment("trainer", values))


def _watched(folders: str) -> list[str]:
    # An empty name would be the folder that one happens to be in.
    found = [os.path.abspath(folder.strip()) for folder in folders.split(",") if folder.strip()]
    if not found:
        raise GraphError(
            f"graph 'trainer': watch: expected folders of bags with commas between them, found {folders!r}"
        )
    return found


TRAINER = GraphDescription("trainer", "the node that turns recorded episodes into better policies", ARGUMENTS, build)
