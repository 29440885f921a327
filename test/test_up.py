"""`irevla up` and `ros2 launch` follow one description; Ctrl-C ends what `up` started."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from irevla_policy.graph.registry import GRAPHS
from irevla_trainer import cli

ROOT = Path(__file__).parents[1]
STAND_IN = ROOT / "src" / "irevla_policy" / "test" / "graph"


def runs(pid: int) -> bool:
    """Whether a process runs; one that has ended may wait for whoever collects it."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_show_args_lists_every_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["up", "sim", "--show-args"]) == 0
    shown = capsys.readouterr().out
    for argument in GRAPHS["sim"].arguments:
        assert f"  {argument.name}:=\n" in shown
        assert argument.description.split(";")[0][:60] in shown


@pytest.mark.parametrize("words", [["up", "gazebo_arm"], ["up", "sim", "tusk:=reach"], ["up", "sim", "reach"]])
def test_wrong_arguments_are_bad_input(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_every_graph_has_its_launch_file() -> None:
    assert {path.name.removesuffix(".launch.py") for path in (ROOT / "launch").glob("*.launch.py")} == set(GRAPHS)


@pytest.mark.skipif(importlib.util.find_spec("launch_ros") is None, reason="needs the ROS 2 launch packages")
@pytest.mark.parametrize("name", list(GRAPHS))
def test_the_launch_file_has_the_arguments_of_up(name: str) -> None:
    from launch.actions import DeclareLaunchArgument

    path = ROOT / "launch" / f"{name}.launch.py"
    spec = importlib.util.spec_from_file_location("launch_file", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    declared = [e for e in module.generate_launch_description().entities if isinstance(e, DeclareLaunchArgument)]
    # That of an arm can include others.
    of_others = {"arm": ["driver", "cameras"]}.get(name, [])
    names = [argument.name for argument in GRAPHS[name].arguments]
    assert [argument.name for argument in declared] == [*names, *of_others]
    for action, argument in zip(declared[: len(names)], GRAPHS[name].arguments, strict=True):
        assert action.default_value[0].text == argument.default
        assert action.description.startswith(argument.description)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_up_ends_its_nodes_when_it_is_ended(tmp_path: Path, number: signal.Signals, code: int) -> None:
    script = textwrap.dedent(
        """
        import signal, sys
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a script
        from irevla_policy.graph.description import Graph, GraphDescription, NodeSpec
        from irevla_policy.graph.registry import GRAPHS
        from irevla_trainer import cli
        nodes = [NodeSpec(name, "none", "none", "stand_in", environment={"BEHAVIOUR": name})
                 for name in ("polite", "parent")]
        GRAPHS["test"] = GraphDescription("test", "stand-ins", (), lambda values: Graph("test", tuple(nodes)))
        sys.exit(cli.main(["up", "test"]))
        """
    )
    environment = {**os.environ, "PYTHONPATH": str(STAND_IN), "CLOSED": str(tmp_path / "closed")}
    words = [sys.executable, "-c", script]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as up:
        assert up.stdout is not None
        lines: list[str] = []
        while sum(line.endswith("ready\n") for line in lines) < 2:
            lines.append(up.stdout.readline())
            assert lines[-1], "ended early: " + "".join(lines)
        up.send_signal(number)
        start = time.monotonic()
        lines += up.stdout.readlines()
    assert time.monotonic() - start < 4.5
    assert up.returncode == code
    assert {"[polite] closed\n", "[parent] closed\n"} <= set(lines)
    pids = [int(pid) for pid in re.findall(r"pid (\d+)", "".join(lines))]
    assert len(pids) == 3
    assert not [pid for pid in pids if runs(pid)]
