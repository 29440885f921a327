"""Worlds without a simulator, in the process of the learner: coloured images, and success by the last action."""

from __future__ import annotations

import sys

import numpy as np

from irevla_policy.sim.tasks import TaskFile, load_tasks
from irevla_trainer.rl.worlds import EpisodeRequest, Seen, Stepped

STEPS = 3


def by_chance(request: EpisodeRequest, actions: list[np.ndarray]) -> bool:
    """About every second episode of a policy that knows nothing, and more the larger the last action is."""
    return bool(actions[-1][0] > np.random.default_rng(request.seed).uniform(-1, 1))


class StandInWorlds:
    """What the loop uses of `irevla_trainer.rl.worlds.Worlds`.

    An episode succeeds or is given up after `STEPS` decisions. All run side by side.
    """

    success = staticmethod(by_chance)

    def __init__(
        self, profile, count: int, tasks: TaskFile | None = None, max_steps: int | None = None, threads: int = 1
    ) -> None:
        self.profile, self.count, self.tasks = profile, count, tasks or load_tasks()

    def steps(self, task: str) -> int:
        return STEPS

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def episodes(self, requests, decide):
        for request in requests:
            self.tasks.variation(request.task, request.variation)
        actions: list[list[np.ndarray]] = [[] for _ in requests]
        index = list(range(len(requests)))
        for step in range(STEPS if requests else 0):
            sys.audit("stand_in_worlds.step")
            for place, action in zip(index, decide(self._seen(requests, step)), strict=True):
                actions[place].append(action)
            last = step == STEPS - 1
            good = np.array([last and type(self).success(requests[place], actions[place]) for place in index])
            yield Stepped(index, good, last & ~good, self._seen(requests, STEPS) if last else None)

    def _seen(self, requests, step: int) -> Seen:
        random = [np.random.default_rng([request.seed, step]) for request in requests]
        images = {
            camera.name: np.stack(
                [np.full((camera.height, camera.width, 3), one.integers(256, size=3), np.uint8) for one in random]
            )
            for camera in self.profile.cameras
        }
        state = np.stack([one.normal(size=self.profile.state_dim).astype(np.float32) for one in random])
        instructions = [self.tasks.instruction(one.task, one.variation, one.seed) for one in requests]
        return Seen(list(range(len(requests))), [step] * len(requests), images, instructions, state)
