"""The graph of Gazebo: programs of other projects beside the nodes of a physical arm."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import yaml

from irevla_policy.graph.description import Graph, GraphError, NodeSpec
from irevla_policy.graph.installed import check_installed
from irevla_policy.graph.registry import find_graph
from irevla_policy.graph.supervisor import Supervisor

OTHERS = {"gazebo", "robot_state_publisher", "spawn_robot", "bridge", "spawn_controllers"}


def install(prefix: Path, package: str, executable: str = "", script: str = "") -> None:
    mark = prefix / "share" / "ament_index" / "resource_index" / "packages" / package
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    if executable:
        program = prefix / "lib" / package / executable
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!{sys.executable}\n{script}")
        program.chmod(0o755)


def test_it_has_the_nodes_of_an_arm_on_the_clock_of_gazebo(tmp_path: Path) -> None:
    graph = find_graph("gazebo").resolve({"task": "pick-can", "files": str(tmp_path)})
    arm = find_graph("arm").resolve({})
    ours = {node.name: node for node in graph.nodes if node.module}
    assert set(ours) == {node.name for node in arm.nodes}
    assert all(node.parameters["use_sim_time"] is True for node in ours.values())
    assert {node.name for node in graph.nodes if not node.module} == OTHERS
    described = next(node for node in graph.nodes if node.name == "robot_state_publisher")
    assert described.parameters["robot_description"] == (tmp_path / "robot.urdf").read_text()
    bridge = next(node for node in graph.nodes if node.name == "bridge")
    assert yaml.safe_load(Path(str(bridge.parameters["config_file"])).read_text())


def test_missing_packages_are_named_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = find_graph("gazebo").resolve({"files": str(tmp_path / "files")})
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    for package in ("ros_gz_sim", "robot_state_publisher", "controller_manager", "ros2_controllers"):
        install(tmp_path, package)
    with pytest.raises(
        GraphError, match=r"sourced: ros_gz_bridge, gz_ros2_control; `sudo apt install ros-jazzy-ros-gz"
    ):
        check_installed(graph)
    install(tmp_path, "ros_gz_bridge")
    install(tmp_path, "gz_ros2_control")
    check_installed(graph)


def test_a_program_of_another_project_runs_with_its_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "other", "other_pkg", "tool", "import sys; print(sys.argv[1:], flush=True)")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path / 'empty'}:{tmp_path / 'other'}")
    node = NodeSpec("tool", "other_pkg", "tool", parameters={"depth": 3}, arguments=("-name", "robot"), finishes=True)
    output = io.StringIO()
    with Supervisor(Graph("test", (node,)), output=output) as running:
        running.wait(20.0)
        assert running.finished
    assert "[tool] ['-name', 'robot', '--ros-args', '--params-file'" in output.getvalue()
    assert "__node" not in output.getvalue()


def test_a_program_that_is_not_there_is_named_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    first = NodeSpec("first", "irevla_policy", "", module="this_would_fail")
    with pytest.raises(GraphError, match=r"graph 'test': not installed, or not sourced: other_pkg;"):
        Supervisor(Graph("test", (first, NodeSpec("tool", "other_pkg", "tool")))).__enter__()
