"""Closed-loop evaluation: success per task, with 95 % Wilson intervals, over seeds that no training has seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from irevla_policy.model.policy import VLAPolicy
from irevla_policy.robot.observation import UInt8Image
from irevla_policy.sim.tasks import TaskError, TaskFile
from irevla_trainer.rl.worlds import EpisodeRequest, RunsEpisodes, Seen
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

    def named_in(self, tasks: TaskFile) -> EvaluationTask:
        """The same task by the name that a task file has for it; as it is where the file does not know it."""
        try:
            return EvaluationTask(tasks.task_name(self.task), self.variation)
        except TaskError:
            return self

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
            "seeds": [episode.seed for episode in self.episodes],
            "outcomes": [episode.success for episode in self.episodes],
        }


def evaluate(
    policy: VLAPolicy,
    worlds: RunsEpisodes,
    tasks: Sequence[EvaluationTask],
    seeds: Sequence[int],
    *,
    filmed: int = 0,
    progress: Callable[[EvaluationTask, int, int], None] = lambda task, done, successes: None,
) -> list[TaskResult]:
    """Run a policy in closed loop, without noise.

    Deterministic for given arguments and number of worlds: the model decides for all running episodes in one batch,
    and a batch rounds differently in the last bits than single decisions do.

    Args:
        policy: What to evaluate.
        worlds: Run the episodes.
        tasks: Tasks and variations.
        seeds: One episode each, the same for every task; see `irevla_trainer.seeds`.
        filmed: Of how many successes and of how many failures per task the frames are kept: of those that end first.
        progress: Called after each episode with task, episodes of it that are done, and successes among them.

    Returns:
        One result per task.

    Raises:
        TaskError: No such task or variation.
    """
    requests = [EpisodeRequest(task.task, task.variation, seed) for task in tasks for seed in seeds]
    films = _Films(filmed, len(seeds))
    deciding = _Deciding(policy, films)
    outcomes: dict[int, EpisodeOutcome] = {}
    done = [[0, 0] for _ in tasks]
    for stepped in worlds.episodes(requests, deciding.decide):
        if stepped.last is None:
            continue
        for row, index in enumerate(stepped.last.index):
            success = bool(stepped.terminated[stepped.index.index(index)])
            films.show(index, stepped.last, row)
            steps = stepped.last.step[row]
            outcomes[index] = EpisodeOutcome(requests[index].seed, success, steps, films.end(index, success))
            task = index // len(seeds)
            done[task][0] += 1
            done[task][1] += success
            progress(tasks[task], *done[task])
    return [
        TaskResult(task, [outcomes[place * len(seeds) + index] for index in range(len(seeds))])
        for place, task in enumerate(tasks)
    ]


@dataclass(frozen=True)
class _Looking:
    """What the model sees of one episode."""

    images: dict[str, UInt8Image]
    instruction: str


class _Deciding:
    """Decides for all running episodes in one batch; a chunk of actions is carried out before the next is asked for."""

    def __init__(self, policy: VLAPolicy, films: _Films) -> None:
        self._policy = policy
        self._films = films
        self._pending: dict[int, list[npt.NDArray[np.float64]]] = {}

    def decide(self, seen: Seen) -> npt.NDArray[np.float32]:
        asking = [row for row, index in enumerate(seen.index) if not self._pending.get(index)]
        if asking:
            asked = seen.rows(asking)
            for index, chunk in zip(asked.index, self._act(asked), strict=True):
                self._pending[index] = list(chunk)
        for row, index in enumerate(seen.index):
            self._films.show(index, seen, row)
        return np.stack([self._pending[index].pop(0) for index in seen.index]).astype(np.float32)

    def _act(self, seen: Seen) -> npt.NDArray[np.float64]:
        """Raw actions `[B, chunk, a]`."""
        observations = [
            _Looking({camera: images[row] for camera, images in seen.images.items()}, instruction)
            for row, instruction in enumerate(seen.instructions)
        ]
        return self._policy.act(observations, seen.state)


class _Films:
    """Frames of running episodes, and of so many successes and failures of every task."""

    def __init__(self, wanted: int, seeds: int) -> None:
        self._wanted, self._seeds = wanted, seeds
        self._running: dict[int, list[UInt8Image]] = {}
        self._kept: Counter[tuple[int, bool]] = Counter()

    def show(self, index: int, seen: Seen, row: int) -> None:
        """One frame of an episode, while its task has films to come."""
        task = index // self._seeds
        if min(self._kept[task, True], self._kept[task, False]) < self._wanted:
            self._running.setdefault(index, []).append(next(iter(seen.images.values()))[row].copy())

    def end(self, index: int, success: bool) -> list[UInt8Image]:
        """The frames of an episode that has ended; none when there are enough of its kind."""
        frames = self._running.pop(index, [])
        kind = index // self._seeds, success
        if not frames or self._kept[kind] >= self._wanted:
            return []
        self._kept[kind] += 1
        return frames
