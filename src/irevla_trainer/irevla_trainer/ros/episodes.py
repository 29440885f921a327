"""Running episodes on a graph: reset, record, wait for the end, label.

with EpisodeRunner(lock_step=True, check=running.check) as runner:
    ended = runner.run("drawer-open", seed=3, source="expert")
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor

from irevla_msgs.msg import EpisodeInfo, StepInfo
from irevla_msgs.srv import LoadPolicy, ResetWorld, StartEpisode, StopEpisode
from irevla_policy.errors import RunError
from irevla_policy.ros import qos
from irevla_policy.ros.messages import nanoseconds

_SOURCES = {"policy": EpisodeInfo.SOURCE_POLICY, "expert": EpisodeInfo.SOURCE_EXPERT}
_SPIN_SECONDS = 0.1


@dataclass(frozen=True)
class EndedEpisode:
    """How an episode on the graph went.

    Attributes:
        task: Its task.
        seed: Seed of the reset.
        success: Whether it ended in success.
        steps: Decisions taken.
        instruction: What the robot was told.
        bag: Folder of its bag; None when it was not recorded.
    """

    task: str
    seed: int
    success: bool
    steps: int
    instruction: str
    bag: Path | None


class EpisodeRunner:
    """Drives the episodes of a graph with `irevla_sim`, and `irevla_recorder` when they are recorded.

    Args:
        lock_step: Whether the simulator runs in lock-step.
        check: Called while waiting; raises when the graph is broken (`Supervisor.check`).
        patience: Longest wait for an answer or for the next step, s.
    """

    def __init__(self, lock_step: bool, check: Callable[[], None] = lambda: None, patience: float = 60.0) -> None:
        self._check = check
        self._patience = patience
        self._context = Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("irevla_episodes", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._clients: dict[str, Any] = {}
        self._steps: list[StepInfo] = []
        self._node.create_subscription(
            StepInfo, "/irevla/step_info", self._steps.append, qos.sensor(lock_step, depth=100)
        )

    def __enter__(self) -> EpisodeRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def run(
        self, task: str, *, seed: int, variation: str = "", source: str = "policy", record: bool = True, name: str = ""
    ) -> EndedEpisode:
        """Run one episode to its end.

        Args:
            task: Task.
            seed: Seed of the reset.
            variation: Variation of the task.
            source: Who acts: `policy` or `expert`.
            record: Whether it is recorded; it is labelled with the simulator's success.
            name: Name of the episode and its bag; empty for a generated one.

        Raises:
            RunError: A service refused or did not answer, or the episode did not go on.
        """
        bag = self._start(task, variation, seed, source, name) if record else None
        reset = self._call(ResetWorld, "/irevla/reset", ResetWorld.Request(task=task, variation=variation, seed=seed))
        last = self._last_step(nanoseconds(reset.stamp), f"episode {task} seed {seed}")
        if record:
            self._stop(last.success)
        return EndedEpisode(task, seed, bool(last.success), int(last.step), reset.instruction, bag)

    def load_policy(self, checkpoint: Path) -> str:
        """Let the running policy node serve another checkpoint; returns its version.

        Raises:
            RunError: The policy node refused it.
        """
        return str(
            self._call(
                LoadPolicy, "/irevla/load_policy", LoadPolicy.Request(path=str(checkpoint.resolve()))
            ).policy_version
        )

    def _start(self, task: str, variation: str, seed: int, source: str, name: str) -> Path:
        request = StartEpisode.Request(
            task=task, variation=variation, world="metaworld", seed=seed, source=_SOURCES[source], episode_id=name
        )
        return Path(self._call(StartEpisode, "/irevla/start_episode", request).path)

    def _stop(self, success: bool) -> None:
        label = EpisodeInfo.SUCCESS_YES if success else EpisodeInfo.SUCCESS_NO
        self._call(StopEpisode, "/irevla/stop_episode", StopEpisode.Request(success=label, labelled_by="simulator"))

    def _last_step(self, start: int, what: str) -> StepInfo:
        """The step at which the episode that began at `start` (ns) ended."""
        deadline, newest = time.monotonic() + self._patience, -1
        while True:
            while self._steps:
                step = self._steps.pop(0)
                if nanoseconds(step.header.stamp) < start:
                    continue
                if step.terminated or step.truncated:
                    return step
                if step.step > newest:
                    deadline, newest = time.monotonic() + self._patience, step.step
            self._wait(deadline, f"{what}: no step after step {newest} within {self._patience:.0f} s")

    def _call(self, kind: Any, name: str, request: Any) -> Any:
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = self._node.create_client(kind, name)
        deadline = time.monotonic() + self._patience
        while not client.service_is_ready():
            self._wait(deadline, f"{name}: not served within {self._patience:.0f} s")
        future = client.call_async(request)
        while not future.done():
            self._wait(deadline, f"{name}: no answer within {self._patience:.0f} s")
        response = future.result()
        if not response.accepted:
            raise RunError(f"{name}: {response.message}")
        return response

    def _wait(self, deadline: float, complaint: str) -> None:
        self._executor.spin_once(timeout_sec=_SPIN_SECONDS)
        self._check()
        if time.monotonic() > deadline:
            raise RunError(complaint)
