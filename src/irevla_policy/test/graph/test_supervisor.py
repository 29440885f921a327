"""The supervisor with real processes: they start as described, end in time, and leave nothing behind."""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from irevla_policy.errors import RunError
from irevla_policy.graph.description import Graph, NodeSpec
from irevla_policy.graph.supervisor import Supervisor

HERE = Path(__file__).parent
# Ctrl-C may take 3 s; the rest is for a machine that is busy with other things.
IN_TIME = 3.0 + 1.5


def node(behaviour: str, **extra: object) -> NodeSpec:
    behaves = {"BEHAVIOUR": behaviour}
    return NodeSpec(behaviour, "none", "none", "stand_in", environment=behaves, **extra)  # type: ignore[arg-type]


def supervise(tmp_path: Path, *nodes: NodeSpec, output: io.StringIO | None = None) -> Supervisor:
    return Supervisor(Graph("test", nodes), environment(tmp_path), tmp_path / "logs", output)


def environment(tmp_path: Path) -> dict[str, str]:
    return {"PYTHONPATH": str(HERE), "CLOSED": str(tmp_path / "closed")}


def log(tmp_path: Path, name: str) -> str:
    path = tmp_path / "logs" / f"{name}.log"
    return path.read_text() if path.exists() else ""


def wait_until_ready(tmp_path: Path, *names: str) -> None:
    deadline = time.monotonic() + 20.0
    while not all("ready" in log(tmp_path, name) for name in names):
        assert time.monotonic() < deadline, (
            f"not ready: {[name for name in names if 'ready' not in log(tmp_path, name)]}"
        )
        time.sleep(0.02)


def pids(tmp_path: Path) -> list[int]:
    texts = [path.read_text() for path in (tmp_path / "logs").glob("*.log")]
    return [int(pid) for text in texts for pid in re.findall(r"^pid (\d+)", text, re.MULTILINE)]


def runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def wait_until_gone(found: list[int], since: float) -> None:
    while any(runs(pid) for pid in found):
        assert time.monotonic() - since < IN_TIME, f"still there: {[pid for pid in found if runs(pid)]}"
        time.sleep(0.02)


def test_nodes_that_listen_end_at_once(tmp_path: Path) -> None:
    with supervise(tmp_path, node("polite")) as running:
        wait_until_ready(tmp_path, "polite")
        start = time.monotonic()
        codes = running.stop()
    assert codes == {"polite": 0}
    assert time.monotonic() - start < 2.0
    assert log(tmp_path, "polite").endswith("closed\n")


def test_nodes_that_do_not_listen_are_told_and_killed(tmp_path: Path) -> None:
    names = ("polite", "deaf", "stubborn", "stopped", "parent")
    output = io.StringIO()
    with supervise(tmp_path, *[node(name) for name in names], output=output) as running:
        wait_until_ready(tmp_path, *names)
        found = pids(tmp_path)
        assert len(found) == len(names) + 1
        start = time.monotonic()
        codes = running.stop()
    wait_until_gone(found, start)
    assert codes == {"polite": 0, "deaf": 0, "stubborn": -signal.SIGKILL, "stopped": 0, "parent": 0}
    assert output.getvalue().count("was killed") == 1
    assert "[stubborn] did not end in time and was killed\n" in output.getvalue()


def test_leaving_the_context_by_an_error_ends_the_nodes(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), supervise(tmp_path, node("polite")):
        wait_until_ready(tmp_path, "polite")
        raise ZeroDivisionError
    assert not any(runs(pid) for pid in pids(tmp_path))


@pytest.mark.parametrize(("behaviour", "how"), [("fails", "with exit code 3"), ("ends", "with exit code 0")])
def test_the_graph_fails_when_a_required_node_ends(tmp_path: Path, behaviour: str, how: str) -> None:
    with (
        pytest.raises(RunError, match=f"graph 'test': node {behaviour} ended {how}"),
        supervise(tmp_path, node("polite"), node(behaviour)) as running,
    ):
        running.wait(timeout=20.0)
    assert not any(runs(pid) for pid in pids(tmp_path))


def test_the_graph_survives_a_node_that_is_not_required(tmp_path: Path) -> None:
    with supervise(tmp_path, node("polite"), node("ends", required=False)) as running:
        wait_until_ready(tmp_path, "polite")
        deadline = time.monotonic() + 20.0
        while "ends" not in running.ended():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        running.wait(timeout=0.1)
        assert running.ended() == {"ends": 0}


def test_a_node_that_has_ended_gets_no_signal_later_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with supervise(tmp_path, node("polite"), node("parent", required=False)) as running:
        wait_until_ready(tmp_path, "polite", "parent")
        gone, children = running.pid("parent"), pids(tmp_path)
        os.kill(gone, signal.SIGKILL)
        deadline = time.monotonic() + 10.0
        while "parent" not in running.ended():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        wait_until_gone([pid for pid in children if pid != running.pid("polite")], time.monotonic())
        # From now on its number may be somebody else's.
        sent: list[int] = []
        kill, killpg = os.kill, os.killpg
        monkeypatch.setattr(os, "kill", lambda pid, number: (sent.append(pid), kill(pid, number)))
        monkeypatch.setattr(os, "killpg", lambda pid, number: (sent.append(pid), killpg(pid, number)))
        codes = running.stop()
    assert codes == {"polite": 0, "parent": -signal.SIGKILL}
    assert sent and gone not in sent


def test_lines_carry_the_name_of_their_node(tmp_path: Path) -> None:
    output = io.StringIO()
    with supervise(tmp_path, node("polite"), output=output) as running:
        wait_until_ready(tmp_path, "polite")
        running.stop()
    assert output.getvalue().splitlines()[-2:] == ["[polite] ready", "[polite] closed"]


def test_a_node_outlives_a_full_disk_under_its_log(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "polite.log").symlink_to("/dev/full")
    output = io.StringIO()
    with supervise(tmp_path, node("polite"), output=output) as running:
        deadline = time.monotonic() + 20.0
        while "[polite] ready" not in output.getvalue():
            assert time.monotonic() < deadline, output.getvalue()
            time.sleep(0.02)
        assert running.stop() == {"polite": 0}
    said = output.getvalue().splitlines()
    assert said[-1] == "[polite] closed"
    assert sum("[polite] its log ends here: " in line for line in said) == 1


class NoTerminal(io.StringIO):
    """What is left of a terminal that was closed."""

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_node_outlives_the_terminal_that_it_is_shown_on(tmp_path: Path) -> None:
    with supervise(tmp_path, node("polite"), output=NoTerminal()) as running:
        wait_until_ready(tmp_path, "polite")
        assert running.stop() == {"polite": 0}
    assert log(tmp_path, "polite").endswith("closed\n")


def test_nodes_get_name_remappings_level_and_typed_parameters(tmp_path: Path) -> None:
    spec = node(
        "polite",
        parameters={"seed": 3, "task": "1", "rate": 2.0, "lock_step": True},
        remappings=(("/a", "/b"),),
        log_level="warn",
        parameters_file="extra.yaml",
    )
    with supervise(tmp_path, spec):
        wait_until_ready(tmp_path, "polite")
        line = next(line for line in log(tmp_path, "polite").splitlines() if line.startswith("arguments"))
        arguments: list[str] = yaml.safe_load(line.removeprefix("arguments "))
        files = [after for word, after in pairwise(arguments) if word == "--params-file"]
        assert files[1:] == ["extra.yaml"]
        assert yaml.safe_load(Path(files[0]).read_text()) == {"/**": {"ros__parameters": dict(spec.parameters)}}
    assert arguments[:5] == ["--ros-args", "-r", "__node:=polite", "-r", "/a:=/b"]
    assert arguments[-2:] == ["--log-level", "warn"]


def test_the_users_environment_wins_over_defaults_and_loses_to_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setenv("ROS_DOMAIN_ID", "5")
    monkeypatch.delenv("ROS_AUTOMATIC_DISCOVERY_RANGE", raising=False)
    graph = Graph("test", (node("polite"),), {"ROS_DOMAIN_ID": "6"})
    with Supervisor(graph, environment(tmp_path), tmp_path / "logs") as running:
        wait_until_ready(tmp_path, "polite")
        found = Path(f"/proc/{running.pid('polite')}/environ").read_text().split("\0")
    assert "MUJOCO_GL=osmesa" in found
    assert "ROS_DOMAIN_ID=6" in found
    assert "ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST" in found


@pytest.fixture
def supervising(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that supervises every kind of node."""
    script = textwrap.dedent(
        """
        import sys
        sys.path.insert(0, sys.argv[1])
        from test_supervisor import Path, node, supervise
        names = ("polite", "deaf", "stubborn", "stopped", "parent")
        with supervise(Path(sys.argv[2]), *[node(name) for name in names]) as running:
            running.wait()
        """
    )
    words = [sys.executable, "-c", script, str(HERE), str(tmp_path)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        wait_until_ready(tmp_path, "polite", "deaf", "stubborn", "stopped", "parent")
        yield process
    finally:
        process.kill()
        process.communicate()


def test_ctrl_c_ends_every_process_in_time(tmp_path: Path, supervising: subprocess.Popen[str]) -> None:
    found = pids(tmp_path)
    start = time.monotonic()
    os.killpg(supervising.pid, signal.SIGINT)
    supervising.wait(timeout=IN_TIME)
    wait_until_gone(found, start)


def test_a_second_ctrl_c_kills_at_once(tmp_path: Path, supervising: subprocess.Popen[str]) -> None:
    found = pids(tmp_path)
    start = time.monotonic()
    os.killpg(supervising.pid, signal.SIGINT)
    time.sleep(0.5)
    os.killpg(supervising.pid, signal.SIGINT)
    wait_until_gone(found, start)
    assert time.monotonic() - start < 2.0


def test_killing_the_supervisor_leaves_nothing_behind(tmp_path: Path, supervising: subprocess.Popen[str]) -> None:
    found = pids(tmp_path)
    start = time.monotonic()
    os.killpg(supervising.pid, signal.SIGKILL)
    wait_until_gone(found, start)
    assert (tmp_path / "closed").exists()
