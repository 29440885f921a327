"""Graph descriptions: arguments, what follows from them, and what is said about wrong ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from irevla_policy.errors import UserError
from irevla_policy.graph.description import GraphError, parse_arguments
from irevla_policy.graph.registry import find_graph
from irevla_policy.paths import config_folder


def nodes(**values: str) -> dict[str, dict[str, object]]:
    graph = find_graph("sim").resolve(values)
    return {node.name: dict(node.parameters) for node in graph.nodes}


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a checkpoint's files, under the current one."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "a"
    folder.mkdir(parents=True)
    for name in ("config.json", "normalisation.json", "heads.safetensors"):
        (folder / name).touch()
    return folder


def test_the_expert_acts_when_there_is_no_checkpoint() -> None:
    assert list(nodes()) == ["irevla_sim", "irevla_guard", "irevla_expert", "irevla_recorder"]


def test_the_policy_acts_when_there_is_a_checkpoint(checkpoint: Path) -> None:
    found = nodes(checkpoint="runs/a", device="cuda")
    assert "irevla_expert" not in found
    assert found["irevla_policy"]["checkpoint"] == str(checkpoint)
    assert found["irevla_policy"]["device"] == "cuda"


def test_the_expert_can_act_in_spite_of_a_checkpoint(checkpoint: Path) -> None:
    found = nodes(checkpoint=str(checkpoint), expert="true")
    assert "irevla_policy" not in found
    assert "irevla_expert" in found


def test_nobody_acts_when_neither_is_wanted() -> None:
    assert list(nodes(expert="false", record="")) == ["irevla_sim", "irevla_guard"]
    # What `ros2 launch` can say: it takes no empty values.
    assert list(nodes(expert="false", record="none")) == ["irevla_sim", "irevla_guard"]


def test_every_node_gets_robot_and_mode() -> None:
    robot = str(config_folder() / "robots" / "sawyer.yaml")
    for parameters in nodes(robot=robot, mode="lock_step").values():
        assert parameters["robot"] == robot
        assert parameters["lock_step"] is True


@pytest.mark.parametrize(
    ("world", "robot", "task"),
    [
        ("metaworld", "sawyer", "button-press-topdown"),
        ("kitchen", "panda_kitchen", "microwave-open"),
        ("tabletop", "panda", "pick-red-block"),
    ],
)
def test_a_world_brings_its_arm_and_its_first_task(world: str, robot: str, task: str) -> None:
    found = nodes(world=world)
    assert {parameters["robot"] for parameters in found.values()} == {robot}
    assert (found["irevla_sim"]["world"], found["irevla_sim"]["task"]) == (world, task)
    assert found["irevla_expert"]["world"] == world
    assert nodes(world=world, robot="sawyer_fine")["irevla_guard"]["robot"] == "sawyer_fine"


def test_values_get_the_types_of_their_parameters() -> None:
    assert nodes(seed="7")["irevla_sim"]["seed"] == 7


def test_the_recorder_gets_an_absolute_folder() -> None:
    assert str(nodes(record="bags")["irevla_recorder"]["folder"]).startswith("/")


def test_domain_and_discovery_become_environment() -> None:
    graph = find_graph("sim").resolve({"domain_id": "7", "discovery_range": "SUBNET"})
    assert graph.environment == {"ROS_DOMAIN_ID": "7", "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tusk": "reach"}, "unknown argument 'tusk'; known arguments: robot, world"),
        ({"mode": "slow"}, "mode must be one of real_time, lock_step, found 'slow'"),
        ({"seed": "1.5"}, "seed must be a whole number from -1 to 2147483647, found '1.5'"),
        ({"domain_id": "233"}, "domain_id must be a whole number from 0 to 232, found '233'"),
    ],
)
def test_wrong_arguments_are_named(values: dict[str, str], message: str) -> None:
    with pytest.raises(GraphError, match=message.replace(".", r"\.")):
        find_graph("sim").resolve(values)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("robot", "nope", "no robot profile 'nope' in .*known: .*sawyer"),
        ("robot", "nope.yaml", "nope.yaml"),
        ("task", "nope", "no task 'nope' in world 'metaworld'; .*known: "),
        ("world", "nope", "world must be one of metaworld, kitchen, tabletop, found 'nope'"),
        ("variation", "nope", "no variation 'nope' of task 'button-press-topdown'; .*known: "),
        ("checkpoint", "nope", "argument checkpoint: there is no folder /.*/nope$"),
        ("params_file", "nope", "argument params_file: there is no file /.*/nope$"),
    ],
)
def test_what_is_not_there_is_named(name: str, value: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        nodes(**{name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["config.json", "heads.safetensors"])
def test_half_a_checkpoint_is_refused(checkpoint: Path, missing: str) -> None:
    (checkpoint / missing).unlink()
    with pytest.raises(GraphError, match=f"runs/a is no whole checkpoint, without {missing}"):
        nodes(checkpoint="runs/a")


def test_the_trainer_watches_the_folders_that_are_named() -> None:
    (node,) = find_graph("trainer").resolve({"watch": "bags, more/bags,"}).nodes
    assert node.parameters["watch"] == [os.path.abspath("bags"), os.path.abspath("more/bags")]
    with pytest.raises(GraphError, match="graph 'trainer': watch: expected folders of bags"):
        find_graph("trainer").resolve({"watch": ","})


def test_a_graph_is_resolved_without_torch_and_mujoco() -> None:
    program = (
        "import sys; from irevla_policy.graph.registry import find_graph; find_graph('sim').resolve({});"
        "sys.exit(bool({'torch', 'mujoco', 'rclpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=30).returncode == 0


def test_an_unknown_graph_is_told_the_known_ones() -> None:
    with pytest.raises(GraphError, match="unknown graph 'simm'; known graphs: sim"):
        find_graph("simm")


def test_an_arm_is_checked_before_it_moves(checkpoint: Path) -> None:
    graph = find_graph("arm").resolve({"robot": "fr3", "checkpoint": "runs/a", "tasks": "tabletop", "dry_run": "true"})
    found = {node.name: dict(node.parameters) for node in graph.nodes}
    assert list(found) == ["irevla_guard", "irevla_arm", "irevla_policy", "irevla_recorder"]
    assert found["irevla_guard"] == {
        "robot": "fr3",
        "check_robot": True,
        "robot_timeout": 30.0,
        "latch": True,
        "dry_run": True,
        "check_collisions": False,
        "moveit": "",
        "moveit_group": "",
    }
    expected = {"robot": "fr3", "tasks": "tabletop", "speed": 0.5, "check_collisions": True}
    assert found["irevla_arm"] == expected | {"moveit": "", "moveit_group": ""}
    assert found["irevla_recorder"]["image_format"] == "jpeg"


def test_moveit_checks_and_plans_for_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = {"robot": "fr3", "moveit": "move_group.yaml", "moveit_group": "arm", "check_commands": "true"}
    found = {node.name: node.parameters for node in find_graph("arm").resolve(values).nodes}
    for name in ("irevla_guard", "irevla_arm"):
        told = (found[name]["check_collisions"], found[name]["moveit"], found[name]["moveit_group"])
        assert told == (True, str(tmp_path / "move_group.yaml"), "arm")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"robot": "pandaa"}, "no robot profile 'pandaa' in .*known: .*panda"),
        ({"tasks": "table"}, "no tasks of world 'table' in .*known: .*tabletop"),
        ({"robot_timeout": "soon"}, r"robot_timeout must be a number from 0\.1 to 600, found 'soon'"),
        ({"homing_speed": "2"}, r"homing_speed must be a number from 0\.01 to 1, found '2'"),
        ({"dry_run": "maybe"}, "dry_run must be one of true, false, found 'maybe'"),
    ],
)
def test_wrong_arguments_of_an_arm_are_named(values: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_graph("arm").resolve(values)


def test_arguments_are_read_from_the_command_line() -> None:
    assert parse_arguments(["task:=door-open", "seed:=3", "checkpoint:="]) == {
        "task": "door-open",
        "seed": "3",
        "checkpoint": "",
    }


@pytest.mark.parametrize("words", [["task=reach"], [":=reach"], ["seed:=1", "seed:=2"]])
def test_malformed_arguments_are_refused(words: list[str]) -> None:
    with pytest.raises(GraphError, match=r"name:=value|given twice"):
        parse_arguments(words)
