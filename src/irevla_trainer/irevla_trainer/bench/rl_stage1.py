"""What stage 1 costs per decision, beside its unavoidable part: environment step, rendering and one forward pass.

Both are measured in the same run: rollouts of the same collector, in turn without and with updates, so that whatever
else the machine does meets both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from irevla_policy.model.policy import VLAPolicy
from irevla_trainer.bench.rl_domain import Domain
from irevla_trainer.rl.ppo import Ppo
from irevla_trainer.rl.rollout import collect
from irevla_trainer.rl.worlds import EpisodeRequest, Worlds
from irevla_trainer.seeds import episode_seeds


@dataclass(frozen=True)
class Turn:
    """One rollout.

    Attributes:
        decisions: That it has.
        collecting: Time of the collector, s.
        learning: Time of the updates, s; 0 without.
        updates: Of the policy.
    """

    decisions: int
    collecting: float
    learning: float = 0.0
    updates: int = 0

    @property
    def seconds(self) -> float:
        """Wall time."""
        return self.collecting + self.learning


def take_turns(
    policy: VLAPolicy, worlds: Worlds, algorithm: Ppo, domain: Domain, rounds: int, episodes: int
) -> tuple[list[Turn], list[Turn]]:
    """Rollouts without and with updates, in turn.

    Args:
        policy: Acts, and learns in every second rollout.
        worlds: Run the episodes, of the domain's world.
        algorithm: Learns, from its first iteration on with policy and critic.
        domain: Whose task.
        rounds: Rollouts of each kind.
        episodes: Per rollout.

    Returns:
        Those without and those with updates; both without the first, in which scenes are compiled.
    """
    algorithm.iteration = max(algorithm.iteration, algorithm.settings.warmup)
    kinds: tuple[list[Turn], list[Turn]] = ([], [])
    requests = [EpisodeRequest(domain.task, "", seed) for seed in episode_seeds("train", episodes)]
    for number in range(-1, rounds):
        # Two rounds in a row start with different kinds: what grows with time then grows in both.
        for learns in (False, True) if number % 2 == 0 else (True, False):
            few = requests[: 2 * worlds.count] if number < 0 else requests
            turn = _turn(policy, worlds, algorithm, few, number, learns)
            if number >= 0:
                kinds[learns].append(turn)
    return kinds


def _turn(
    policy: VLAPolicy, worlds: Worlds, algorithm: Ppo, requests: list[EpisodeRequest], number: int, learns: bool
) -> Turn:
    start = time.perf_counter()
    store = algorithm.store(sum(worlds.steps(request.task) + 1 for request in requests))
    rollout = collect(worlds, requests, policy, store, algorithm.std, number + 1, algorithm.noise_correlation)
    collected = time.perf_counter()
    if not learns:
        return Turn(len(rollout), collected - start)
    figures = algorithm.learn(rollout, seed=number + 1)
    return Turn(len(rollout), collected - start, time.perf_counter() - collected, round(figures["updates"]))


def per_decision(turns: list[Turn], part: Callable[[Turn], float] = lambda turn: turn.seconds) -> float:
    """Time per decision of a typical rollout, s.

    Args:
        turns: The rollouts.
        part: The time to count.
    """
    return float(np.median([part(turn) / turn.decisions for turn in turns]))
