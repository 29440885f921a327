"""Running episodes on a graph: reset, record, wait for the end, label.

with EpisodeRunner(lock_step=True, check=running.check) as runner:
    ended = runner.run("drawer-open", seed=3, source="expert")
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from irevla_msgs.msg import EpisodeInfo, StepInfo
from irevla_msgs.srv import LoadPolicy, ResetWorld, StartEpisode, StopEpisode
from irevla_policy.recording.episode import new_name
from irevla_policy.ros import qos
from irevla_policy.ros.messages import nanoseconds
from irevla_policy.sim.tasks import METAWORLD
from irevla_trainer.ros.graph_client import GraphClient

_SOURCES = {"policy": EpisodeInfo.SOURCE_POLICY, "expert": EpisodeInfo.SOURCE_EXPERT}

_SERVICES = {
    "/irevla/start_episode": StartEpisode,
    "/irevla/stop_episode": StopEpisode,
    "/irevla/reset": ResetWorld,
}
"""That every episode needs."""


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


class EpisodeRunner(GraphClient):
    """Drives the episodes of a graph with `irevla_sim`, and `irevla_recorder` when they are recorded.

    Args:
        lock_step: Whether the simulator runs in lock-step.
        check: Called while waiting; raises when the graph is broken (`Supervisor.check`).
        patience: Longest wait for an answer or for the next step, s.
        world: World of the simulator, as recorded.
        domain: ROS domain of the graph; that of this process when left out.
    """

    def __init__(
        self,
        lock_step: bool,
        check: Callable[[], None] = lambda: None,
        patience: float = 60.0,
        world: str = METAWORLD,
        domain: int | None = None,
    ) -> None:
        super().__init__("irevla_episodes", check, patience, domain=domain, services=_SERVICES)
        self._world = world
        self._steps: list[StepInfo] = []
        self.node.create_subscription(
            StepInfo, "/irevla/step_info", self._steps.append, qos.sensor(lock_step, depth=100)
        )

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
        bag = self._start(task, variation, seed, source, name or new_name(task)) if record else None
        reset = self.call(ResetWorld, "/irevla/reset", ResetWorld.Request(task=task, variation=variation, seed=seed))
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
            self.call(
                LoadPolicy, "/irevla/load_policy", LoadPolicy.Request(path=str(checkpoint.resolve()))
            ).policy_version
        )

    def _start(self, task: str, variation: str, seed: int, source: str, name: str) -> Path:
        request = StartEpisode.Request(
            task=task, variation=variation, world=self._world, seed=seed, source=_SOURCES[source], episode_id=name
        )
        return Path(self.call(StartEpisode, "/irevla/start_episode", request, again=True).path)

    def _stop(self, success: bool) -> None:
        label = EpisodeInfo.SUCCESS_YES if success else EpisodeInfo.SUCCESS_NO
        self.call(StopEpisode, "/irevla/stop_episode", StopEpisode.Request(success=label, labelled_by="simulator"))

    def _last_step(self, start: int, what: str) -> StepInfo:
        """The step at which the episode that began at `start` (ns) ended."""
        newest = -1
        while True:
            while self._steps:
                step = self._steps.pop(0)
                if nanoseconds(step.header.stamp) < start:
                    continue
                if step.terminated or step.truncated:
                    return step
                newest = max(newest, step.step)
            complaint = f"{what}: no step after step {newest} within {self.patience:.0f} s"
            self.wait(lambda: bool(self._steps), time.monotonic() + self.patience, complaint)
