"""The environment that nodes get: the user's own values first, then what the suite needs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from irevla_policy.graph.description import Graph, NodeSpec
from irevla_policy.graph.domains import other_domain
from irevla_policy.paths import config_folder


def default_environment() -> dict[str, str]:
    """What every process of a graph gets unless the user has set it.

    Discovery stays on this machine, because Fast DDS otherwise multicasts on every interface; MuJoCo renders without
    a display; the ament index is found although nothing was sourced.
    """
    defaults = {"MUJOCO_GL": "egl", "PYTHONUNBUFFERED": "1"}
    # ROS 2 ignores the range when the older variable is set, and warns about having both.
    if "ROS_LOCALHOST_ONLY" not in os.environ:
        defaults["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    if Path(sys.prefix, "share", "ament_index").is_dir():
        defaults["AMENT_PREFIX_PATH"] = sys.prefix
    profile = config_folder() / "fastdds.xml"
    if profile.is_file():
        defaults["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(profile)
    return defaults


def node_environment(graph: Graph, node: NodeSpec, extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of one process.

    From weak to strong: the suite's defaults, the node's own, the user's environment, the graph's arguments, `extra`.
    """
    return {**default_environment(), **node.environment, **os.environ, **graph.environment, **extra}


def adopt_environment(private: bool = False) -> None:
    """Give this process the environment of the graphs that it supervises; call it before `rclpy.init`.

    Args:
        private: Also take a ROS domain that no other program on this machine is on. A domain that the user has set is
            kept.

    Raises:
        RunError: No domain is free.
    """
    for name, value in default_environment().items():
        os.environ.setdefault(name, value)
    if private and "ROS_DOMAIN_ID" not in os.environ:
        os.environ["ROS_DOMAIN_ID"] = str(other_domain())
