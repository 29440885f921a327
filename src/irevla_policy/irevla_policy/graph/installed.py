"""What a graph needs of other projects: where it is, or what has to be installed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from irevla_policy.graph.description import Graph, GraphError, NodeSpec


def find_executable(node: NodeSpec) -> Path:
    """The file of a node that is a program of another project, in the prefixes that were sourced.

    Raises:
        GraphError: It is not there.
    """
    for prefix in _prefixes():
        path = prefix / "lib" / node.package / node.executable
        if os.access(path, os.X_OK):
            return path
    raise GraphError(f"there is no {node.package}/{node.executable} in AMENT_PREFIX_PATH")


def check_installed(graph: Graph) -> None:
    """Refuse a graph whose packages are not all there, before anything runs.

    Raises:
        GraphError: Names every missing package and how to get it.
    """
    needed = [node.package for node in graph.nodes if not node.module] + list(graph.packages)
    missing = [package for package in dict.fromkeys(needed) if not any(_has(prefix, package) for prefix in _prefixes())]
    if missing:
        debian = " ".join(f"ros-jazzy-{package.replace('_', '-')}" for package in missing)
        raise GraphError(
            f"graph {graph.name!r}: not installed, or not sourced: {', '.join(missing)}; `sudo apt install {debian}`, "
            "then `source /opt/ros/jazzy/setup.bash`"
        )


def _prefixes() -> Iterator[Path]:
    return (Path(prefix) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix)


def _has(prefix: Path, package: str) -> bool:
    return (prefix / "share" / "ament_index" / "resource_index" / "packages" / package).is_file()
