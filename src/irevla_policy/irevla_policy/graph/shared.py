"""Arguments that every graph takes."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

from irevla_policy.graph.description import Argument, GraphError

# What every checkpoint has: irevla_policy.model.checkpoint, which reads them, needs torch.
_CHECKPOINT_FILES = ("config.json", "normalisation.json", "heads.safetensors")

LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")

ARGUMENTS = (
    Argument("params_file", "", "ROS parameter file for all nodes; its values win over the arguments"),
    Argument("log_level", "info", "Level of the nodes' loggers", LOG_LEVELS),
    Argument("domain_id", "", "ROS domain, 0 to 232; empty keeps ROS_DOMAIN_ID"),
    Argument(
        "discovery_range",
        "",
        "Which machines take part; empty keeps ROS_AUTOMATIC_DISCOVERY_RANGE, LOCALHOST when that is not set",
        ("", "OFF", "LOCALHOST", "SUBNET", "SYSTEM_DEFAULT"),
    ),
)


def environment(graph: str, values: Mapping[str, str]) -> dict[str, str]:
    """Environment variables of all processes.

    Args:
        graph: Name of the graph, for the message.
        values: Of all arguments.

    Raises:
        GraphError: The domain is none.
    """
    found = {}
    if values["domain_id"]:
        found["ROS_DOMAIN_ID"] = str(whole_number(graph, values, "domain_id", 0, 232))
    if values["discovery_range"]:
        found["ROS_AUTOMATIC_DISCOVERY_RANGE"] = values["discovery_range"]
    return found


def parameters_file(graph: str, values: Mapping[str, str]) -> str:
    """The absolute path of the parameter file; empty for none.

    Raises:
        GraphError: There is no such file.
    """
    if not values["params_file"]:
        return ""
    path = Path(values["params_file"]).absolute()
    if not path.is_file():
        raise GraphError(f"graph {graph!r}: argument params_file: there is no file {path}")
    return str(path)


def checkpoint(graph: str, values: Mapping[str, str]) -> str:
    """The absolute path of the checkpoint's folder; empty for none.

    Raises:
        GraphError: There is no such folder, or no whole checkpoint in it.
    """
    if not values["checkpoint"]:
        return ""
    folder = Path(values["checkpoint"]).absolute()
    if not folder.is_dir():
        raise GraphError(f"graph {graph!r}: argument checkpoint: there is no folder {folder}")
    if missing := [name for name in _CHECKPOINT_FILES if not (folder / name).is_file()]:
        raise GraphError(f"graph {graph!r}: argument checkpoint: {folder} is no whole checkpoint, without {missing[0]}")
    return str(folder)


def policy_threads() -> int:
    """Threads of the policy: one core stays with what drives the robot, which slows down when both compete for it."""
    return max(1, (os.cpu_count() or 1) - 1)


def recorder_folder(values: Mapping[str, str]) -> str:
    """The absolute path of the recorder's folder; empty for no recorder.

    `ros2 launch` takes no empty values: `none` says the same.
    """
    return "" if values["record"] in ("", "none") else os.path.abspath(values["record"])


def whole_number(graph: str, values: Mapping[str, str], name: str, low: int, high: int) -> int:
    """The value of an argument that is a whole number.

    Raises:
        GraphError: It is none, or out of range.
    """
    try:
        number = int(values[name])
    except ValueError:
        number = low - 1
    if not low <= number <= high:
        raise GraphError(
            f"graph {graph!r}: argument {name} must be a whole number from {low} to {high}, found {values[name]!r}"
        )
    return number


def number(graph: str, values: Mapping[str, str], name: str, low: float, high: float) -> float:
    """The value of an argument that is a number.

    Raises:
        GraphError: It is none, or out of range.
    """
    try:
        found = float(values[name])
    except ValueError:
        found = math.nan
    if not low <= found <= high:
        raise GraphError(
            f"graph {graph!r}: argument {name} must be a number from {low:g} to {high:g}, found {values[name]!r}"
        )
    return found
