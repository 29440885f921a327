"""Closed-loop evaluation: success per task, with 95 % Wilson intervals, over seeds that no training has seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from irevla_policy.model.policy import VLAPolicy
from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.observation import Observation, UInt8Image
from irevla_policy.robot.proprioception import proprioceptive_state
from irevla_policy.sim.world import World
from irevla_trainer.statistics import Rate


@dataclass(frozen=True)
class EvaluationTask:
    """What to evaluate on: a task and one of its variations ('' for the task as it is)."""

    task: str
    variation: str = ""

    @classmethod
    def parse(cls, text: str) -> EvaluationTask:
        """'TASK' or 'TASK:VARIATION'."""
        task, _, variation = text.strip().partition(":")
        return cls(task, variation)

    def __str__(self) -> str:
        return f"{self.task}:{self.variation}" if self.variation else self.task


@dataclass(frozen=True)
class EpisodeOutcome:
    """How one episode went.

    Attributes:
        seed: Of the world.
        success: Whether it ended in success.
        steps: Decisions taken.
        frames: Images of the first camera, when they were asked for.
    """

    seed: int
    success: bool
    steps: int
    frames: list[UInt8Image] = field(default_factory=list, repr=False)


@dataclass(frozen=True)
class TaskResult:
    """Outcome on one task, episodes in the order of the seeds."""

    task: EvaluationTask
    episodes: list[EpisodeOutcome]
    seconds: float

    @property
    def rate(self) -> Rate:
        """Success rate."""
        return Rate(sum(episode.success for episode in self.episodes), len(self.episodes))

    def to_json(self) -> dict[str, Any]:
        """Rate with interval, and per-episode seeds and outcomes."""
        return {
            "task": self.task.task,
            "variation": self.task.variation,
            **self.rate.to_json(),
            "mean_steps": round(float(np.mean([episode.steps for episode in self.episodes])), 2),
            "seconds": round(self.seconds, 2),
            "seeds": [episode.seed for episode in self.episodes],
            "outcomes": [episode.success for episode in self.episodes],
        }


def evaluate(
    policy: VLAPolicy,
    make_world: Callable[[], World],
    tasks: Sequence[EvaluationTask],
    seeds: Sequence[int],
    *,
    worlds: int = 10,
    filmed: int = 0,
    progress: Callable[[EvaluationTask, int, int], None] = lambda task, done, successes: None,
) -> list[TaskResult]:
    """Run a policy in closed loop.

    Deterministic for given arguments. Several worlds are stepped in turn so that the model decides for all of them
    in one batch; a batch rounds differently in the last bits than single decisions do, hence `worlds` is an argument.

    Args:
        policy: What to evaluate.
        make_world: Makes a world; called `worlds` times at most.
        tasks: Tasks and variations.
        seeds: One episode each, the same for every task; see `irevla_trainer.seeds`.
        worlds: Episodes at a time.
        filmed: Of how many episodes per task the frames are kept.
        progress: Called after each episode with task, episodes done and successes.

    Returns:
        One result per task.

    Raises:
        TaskError: No such task or variation.
    """
    pool = [make_world() for _ in range(min(worlds, max(len(seeds), 1)))]
    try:
        results = []
        for task in tasks:
            started = time.monotonic()
            outcomes: dict[int, EpisodeOutcome] = {}
            for index, outcome in _episodes(policy, pool, task, list(seeds), filmed):
                outcomes[index] = outcome
                progress(task, len(outcomes), sum(item.success for item in outcomes.values()))
            ordered = [outcomes[index] for index in range(len(seeds))]
            results.append(TaskResult(task, ordered, time.monotonic() - started))
        return results
    finally:
        for world in pool:
            world.close()


@dataclass
class _Running:
    """An episode under way."""

    index: int
    world: World
    kinematics: ArmKinematics
    observation: Observation
    filmed: bool
    steps: int = 0
    frames: list[UInt8Image] = field(default_factory=list)
    pending: list[np.ndarray] = field(default_factory=list)

    @property
    def state(self) -> np.ndarray:
        seen = self.observation
        return proprioceptive_state(self.world.profile, self.kinematics, seen.joint_positions, seen.gripper)

    def film(self) -> None:
        if self.filmed:
            self.frames.append(next(iter(self.observation.images.values())))


def _episodes(
    policy: VLAPolicy, pool: list[World], task: EvaluationTask, seeds: list[int], filmed: int
) -> Iterator[tuple[int, EpisodeOutcome]]:
    """Yield episodes as they end; a world that becomes free starts the next seed."""
    kinematics = ArmKinematics(pool[0].profile)
    waiting = list(range(len(seeds)))

    def start(world: World) -> _Running:
        index = waiting.pop(0)
        observation = world.reset(task.task, task.variation, seeds[index])
        running = _Running(index, world, kinematics, observation, index < filmed)
        running.film()
        return running

    live = [start(world) for world in pool[: len(waiting)]]
    while live:
        _decide(policy, [running for running in live if not running.pending])
        still = []
        for running in live:
            result = running.world.step(running.pending.pop(0))
            running.observation, running.steps = result.observation, running.steps + 1
            running.film()
            if not (result.terminated or result.truncated):
                still.append(running)
                continue
            yield running.index, EpisodeOutcome(seeds[running.index], result.success, running.steps, running.frames)
            if waiting:
                still.append(start(running.world))
        live = still


def _decide(policy: VLAPolicy, asking: list[_Running]) -> None:
    """Fill the pending actions of episodes that have none left of their chunk."""
    if asking:
        chunks = policy.act([item.observation for item in asking], np.stack([item.state for item in asking]))
        for item, chunk in zip(asking, chunks, strict=True):
            item.pending = list(chunk)
