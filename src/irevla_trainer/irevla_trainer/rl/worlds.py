"""Many worlds in worker processes, each working through a list of episodes.

    with Worlds(profile, count=8) as worlds:
        for stepped in worlds.episodes(requests, decide):
            ...

An episode depends on nothing but its request and the actions, so that the same requests and the same policy give the
same episodes, whatever ran before: a resumed run repeats an interrupted iteration exactly.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from irevla_policy.errors import RunError
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.sim.environment import Observed
from irevla_policy.sim.tasks import TaskFile, load_tasks
from irevla_trainer.rl.world_process import Reset, WorldProcess, make_environment

_GROUPS = 2
"""While one group of worlds steps, the model decides for the other."""


@dataclass(frozen=True)
class EpisodeRequest:
    """An episode to run.

    Attributes:
        task: Name of the task.
        variation: Name of its variation; empty for the task as it is.
        seed: Of the world.
    """

    task: str
    variation: str
    seed: int

    def reset(self) -> Reset:
        """What starts it in an environment."""
        return {"seed": self.seed, "options": {"task": self.task, "variation": self.variation}}


@dataclass(frozen=True)
class Seen:
    """What the running episodes show, in the order of their worlds.

    Attributes:
        index: Place of each episode's request in the list, `[B]`.
        step: Decisions that each has taken, `[B]`.
        images: Camera name to RGB images, uint8 `[B, H, W, 3]`.
        instructions: B texts.
        state: Raw proprioceptive states, float32 `[B, s]`.
    """

    index: list[int]
    step: list[int]
    images: dict[str, npt.NDArray[np.uint8]]
    instructions: list[str]
    state: npt.NDArray[np.float32]

    def rows(self, rows: Sequence[int]) -> Seen:
        """Some of the episodes."""
        return Seen(
            [self.index[row] for row in rows],
            [self.step[row] for row in rows],
            {camera: images[list(rows)] for camera, images in self.images.items()},
            [self.instructions[row] for row in rows],
            self.state[list(rows)],
        )


@dataclass(frozen=True)
class Stepped:
    """What one decision of each running episode led to.

    Attributes:
        index: Place of each episode's request in the list, `[B]`.
        terminated: Whether the episode ended in success, `[B]`.
        truncated: Whether it was given up, `[B]`.
        last: What was seen at the end of those that ended, in their order.
        instead: Raw actions that somebody who intervened had carried out instead of those decided, `[B, a]`; NaN where
            nobody did. None where nobody can.
        failed: Whether it ended in failure for good, which somebody saw, `[B]`; None where nobody looks.
    """

    index: list[int]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    last: Seen | None
    instead: npt.NDArray[np.float32] | None = None
    failed: npt.NDArray[np.bool_] | None = None


@runtime_checkable
class RunsEpisodes(Protocol):
    """Whatever runs episodes: worlds in processes of the learner, or a graph."""

    def steps(self, task: str) -> int:
        """Decisions until an episode of a task is given up."""
        ...

    def episodes(
        self,
        requests: Sequence[EpisodeRequest],
        decide: Callable[[Seen], npt.NDArray[np.floating[Any]]],
    ) -> Iterator[Stepped]:
        """Run episodes to their ends; see `Worlds.episodes`."""
        ...


class Worlds:
    """Worker processes with one world each.

    Args:
        profile: The robot.
        count: Number of processes.
        tasks: The tasks; those of `config/tasks/metaworld.yaml` by default.
        max_steps: Decisions until an episode is given up; the tasks' own numbers by default.
        threads: Of the model's arithmetic while episodes run; as they are when 0.

    Raises:
        ValueError: `count` is below 1.
    """

    def __init__(
        self,
        profile: RobotProfile,
        count: int,
        tasks: TaskFile | None = None,
        max_steps: int | None = None,
        threads: int = 1,
    ) -> None:
        if count < 1:
            raise ValueError(f"worlds: expected at least 1, found {count}")
        self.count = count
        self.tasks = tasks or load_tasks()
        self._max_steps, self._threads = max_steps, threads
        # Processes enough for every core: threads of the software renderer would only stand in each other's way.
        os.environ.setdefault("LP_NUM_THREADS", "1")
        make = partial(make_environment, profile, self.tasks, max_steps)
        self._processes: list[WorldProcess] = []
        try:
            for number in range(count):
                self._processes.append(WorldProcess(number, make))
        except BaseException:
            self.close()
            raise

    def steps(self, task: str) -> int:
        """Decisions until an episode of a task is given up."""
        return self._max_steps or self.tasks.steps(task)

    def episodes(
        self,
        requests: Sequence[EpisodeRequest],
        decide: Callable[[Seen], npt.NDArray[np.floating[Any]]],
    ) -> Iterator[Stepped]:
        """Run episodes to their ends.

        Args:
            requests: Neighbours run in the same world, so that requests sorted by task load few scenes.
            decide: What is seen to raw actions `[B, action_dim]`; rows of the batch are running episodes only.

        Yields:
            After each common step of a group of worlds, what it led to.

        Raises:
            TaskError: No such task or variation.
            RunError: An action is not finite, or a process has ended.
        """
        for request in requests:
            self.tasks.variation(request.task, request.variation)
        parts = np.array_split(np.arange(len(requests)), self.count)
        lists = [_List(*pair, requests) for pair in zip(self._processes, parts, strict=True) if len(pair[1])]
        for one in lists:
            one.process.settle()
            one.process.ask(None, requests[one.index].reset())
        for one in lists:
            one.observed = one.process.answer().first
        groups = [lists[place::_GROUPS] for place in range(_GROUPS)]
        with _threads(self._threads):
            for group in groups:
                self._ask(group, requests, decide)
            while any(groups):
                for group in filter(None, groups):
                    yield self._answers(group, requests)
                    group[:] = [one for one in group if one.observed is not None]
                    self._ask(group, requests, decide)

    def _ask(
        self,
        group: list[_List],
        requests: Sequence[EpisodeRequest],
        decide: Callable[[Seen], npt.NDArray[np.floating[Any]]],
    ) -> None:
        """Decide for a group of running episodes, and let their worlds step."""
        if not group:
            return
        actions = np.asarray(decide(_seen(group, requests, self.tasks)), dtype=np.float32)
        if not np.isfinite(actions).all():
            raise RunError("the policy's actions are not finite: its weights have diverged")
        for one, action in zip(group, actions, strict=True):
            one.process.ask(action, one.following())

    def _answers(self, group: list[_List], requests: Sequence[EpisodeRequest]) -> Stepped:
        """Wait for what the step of a group led to."""
        index = [one.index for one in group]
        replies = [one.process.answer() for one in group]
        for one, reply in zip(group, replies, strict=True):
            one.observed = reply.observed
            one.step += 1
        over = [one for one, reply in zip(group, replies, strict=True) if reply.ended]
        last = _seen(over, requests, self.tasks) if over else None
        for one, reply in zip(group, replies, strict=True):
            if reply.ended:
                one.go_on(reply.first)
        terminated = np.array([reply.terminated for reply in replies])
        truncated = np.array([reply.truncated for reply in replies])
        return Stepped(index, terminated, truncated, last)

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.close()
        self._processes.clear()

    def __enter__(self) -> Worlds:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _List:
    """The episodes that one process works through."""

    def __init__(
        self, process: WorldProcess, places: npt.NDArray[np.int64], requests: Sequence[EpisodeRequest]
    ) -> None:
        self.process, self._places, self._requests = process, places, requests
        self._done = 0
        self.step = 0
        self.observed: Observed | None = None

    @property
    def index(self) -> int:
        """Place of the running episode's request."""
        return int(self._places[self._done])

    def following(self) -> Reset | None:
        """The episode after the running one."""
        more = self._done + 1 < len(self._places)
        return self._requests[int(self._places[self._done + 1])].reset() if more else None

    def go_on(self, first: Observed | None) -> None:
        """To the next episode, of which `first` is seen; None after the last."""
        self._done += 1
        self.step = 0
        self.observed = first


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch have so many threads, or as many as it has when `count` is 0."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _seen(lists: Sequence[_List], requests: Sequence[EpisodeRequest], tasks: TaskFile) -> Seen:
    asked = [requests[one.index] for one in lists]
    instructions = [tasks.instruction(request.task, request.variation, request.seed) for request in asked]
    observed = [one.observed for one in lists if one.observed is not None]
    stacked = {name: np.stack([each[name] for each in observed]) for name in observed[0]}
    state = stacked.pop("state")
    return Seen([one.index for one in lists], [one.step for one in lists], stacked, instructions, state)
