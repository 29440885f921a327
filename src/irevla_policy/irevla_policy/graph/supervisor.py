"""Runs a node graph as processes of this machine: the suite's own launch, for machines without launch packages.

    with Supervisor(find_graph("sim").resolve({"task": "door-open"})) as running:
        running.wait()

Every node runs in a session of its own, so that Ctrl-C reaches the supervisor alone and the nodes end in order: within
3 s, none left behind, also when the supervisor itself is killed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TextIO

import yaml

from irevla_policy.errors import RunError
from irevla_policy.graph import ending
from irevla_policy.graph.description import Graph, NodeSpec
from irevla_policy.graph.environment import node_environment
from irevla_policy.graph.groups import own_group
from irevla_policy.graph.installed import check_installed, find_executable
from irevla_policy.graph.shared_memory import reclaim

_POLL = 0.05
_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92)


@dataclass
class _Process:
    node: NodeSpec
    popen: subprocess.Popen[bytes]
    reader: threading.Thread
    gone: bool = False


class Supervisor:
    """The processes of a graph, from entering the context to leaving it.

    Args:
        graph: What to run.
        environment: Environment variables that win over everything else.
        log_dir: Folder for one `NODE.log` each; None keeps no logs.
        output: Where the nodes' output goes, each line with the node's name in front; None shows none.
    """

    def __init__(
        self,
        graph: Graph,
        environment: Mapping[str, str] | None = None,
        log_dir: str | Path | None = None,
        output: TextIO | None = None,
    ) -> None:
        self.graph = graph
        self._environment = dict(environment or {})
        self._log_dir = Path(log_dir) if log_dir is not None else None
        self._output = output
        self._output_lock = threading.Lock()
        self._processes: list[_Process] = []
        self._reaper: subprocess.Popen[bytes] | None = None
        self._parameters: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Supervisor:
        check_installed(self.graph)
        if self._log_dir is not None:
            self._log_dir.mkdir(parents=True, exist_ok=True)
        reclaim()
        self._parameters = tempfile.TemporaryDirectory(prefix="irevla-parameters-")
        try:
            self._reaper = subprocess.Popen(
                [sys.executable, "-m", "irevla_policy.graph.reaper"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                **own_group(),
            )
            for index, node in enumerate(self.graph.nodes):
                self._start(node, index)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def pid(self, name: str) -> int:
        """Process id of a node, which is also the id of its process group."""
        return next(process.popen.pid for process in self._processes if process.node.name == name)

    def ended(self) -> dict[str, int]:
        """Nodes that have ended, with their exit codes (negative: the signal that killed them)."""
        for process in self._processes:
            if not process.gone and process.popen.poll() is not None:
                # What it has left behind is ended now: later its number may be that of somebody else.
                ending.kill_group(process.popen.pid)
                self._forget(process)
        return {process.node.name: process.popen.returncode for process in self._processes if process.gone}

    def _forget(self, process: _Process) -> None:
        """Send a node that has ended, and its group, no signal from now on."""
        self._tell_reaper(f"-{process.popen.pid}\n")
        process.gone = True

    def check(self) -> None:
        """Raise when a required node has ended.

        Raises:
            RunError: Names the node and how it ended.
        """
        ended = self.ended()
        for node in self.graph.nodes:
            if node.required and node.name in ended:
                raise RunError(f"graph {self.graph.name!r}: node {node.name} ended {_in_words(ended[node.name])}")

    @property
    def finished(self) -> bool:
        """Whether a node that is expected to end has ended well."""
        ended = self.ended()
        return any(node.finishes and ended.get(node.name) == 0 for node in self.graph.nodes)

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the graph has finished, a required node has ended, or `timeout` (s) has passed.

        Raises:
            RunError: A required node has ended; names it and how.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (deadline is None or time.monotonic() < deadline) and not self.finished:
            self.check()
            time.sleep(_POLL)

    def stop(self) -> dict[str, int]:
        """End all nodes within 3 s: SIGINT at once, SIGTERM after 1.8 s, SIGKILL after 2.5 s.

        A second Ctrl-C meanwhile kills them at once.

        Returns:
            Exit code of every node, as in `ended`.
        """
        self.ended()
        left = [process for process in self._processes if not process.gone]
        by_pid = {process.popen.pid: process.popen for process in left}
        names = {process.popen.pid: process.node.name for process in left}
        try:
            for pid in ending.end(by_pid, lambda pid: by_pid[pid].poll() is None):
                self._show(f"[{names[pid]}] did not end in time and was killed\n")
        except BaseException:
            for pid in by_pid:
                ending.kill_group(pid)
            raise
        finally:
            self._tidy()
        return self.ended()

    def _start(self, node: NodeSpec, index: int) -> None:
        popen = subprocess.Popen(
            self._command(node),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=node_environment(self.graph, node, self._environment),
            **own_group(),
        )
        self._tell_reaper(f"+{popen.pid}\n")
        assert popen.stdout is not None
        # Unbuffered: every line is there at once, and after a failed write nothing is left to fail again.
        log = (self._log_dir / f"{node.name}.log").open("wb", buffering=0) if self._log_dir is not None else None
        reader = threading.Thread(
            target=self._forward, args=(popen.stdout, self._prefix(node.name, index), log), daemon=True
        )
        self._processes.append(_Process(node, popen, reader))
        reader.start()

    def _command(self, node: NodeSpec) -> list[str]:
        assert self._parameters is not None
        path = Path(self._parameters.name, f"{node.name}.yaml")
        # A file keeps the types of the values; on the command line '1' would always be a number.
        path.write_text(yaml.safe_dump({"/**": {"ros__parameters": dict(node.parameters)}}))
        if node.module:
            command = [sys.executable, "-m", node.module, *node.arguments, "--ros-args", "-r", f"__node:={node.name}"]
        else:
            command = [str(find_executable(node)), *node.arguments, "--ros-args"]
        for old, new in node.remappings:
            command += ["-r", f"{old}:={new}"]
        command += ["--params-file", str(path)]
        if node.parameters_file:
            command += ["--params-file", node.parameters_file]
        return [*command, "--log-level", node.log_level]

    def _prefix(self, name: str, index: int) -> str:
        if self._output is not None and self._output.isatty():
            return f"\033[{_COLOURS[index % len(_COLOURS)]}m[{name}]\033[0m "
        return f"[{name}] "

    def _forward(self, stream: IO[bytes], prefix: str, log: IO[bytes] | None) -> None:
        # The stream is read to its end whatever happens to log and output: a full pipe would stop the node, and a pipe
        # that nobody reads any more would end it.
        with stream, log or nullcontext() as kept:
            for line in stream:
                if kept is not None:
                    try:
                        kept.write(line)
                    except OSError as error:
                        self._show(f"{prefix}its log ends here: {error}\n")
                        kept = None
                if self._output is not None:
                    self._show(prefix + line.decode(errors="replace").rstrip("\n") + "\n")

    def _show(self, text: str) -> None:
        try:
            with self._output_lock:
                if self._output is not None:
                    self._output.write(text)
                    self._output.flush()
        except (OSError, ValueError):
            self._output = None

    def _tell_reaper(self, text: str) -> None:
        if self._reaper is not None and self._reaper.stdin is not None and not self._reaper.stdin.closed:
            try:
                self._reaper.stdin.write(text.encode())
                self._reaper.stdin.flush()
            except BrokenPipeError:
                self._reaper.stdin.close()

    def _tidy(self) -> None:
        """Reap every process, read what it still said, and release the reaper."""
        for process in self._processes:
            try:
                process.popen.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                continue
            if not process.gone:
                self._forget(process)
            process.reader.join(timeout=0.2)
        if self._reaper is not None:
            if self._reaper.stdin is not None:
                self._reaper.stdin.close()
            self._reaper.wait()
            self._reaper = None
        if self._parameters is not None:
            self._parameters.cleanup()
            self._parameters = None


def _in_words(code: int) -> str:
    return f"by signal {-code}" if code < 0 else f"with exit code {code}"
