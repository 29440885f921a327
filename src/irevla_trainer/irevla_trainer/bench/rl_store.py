"""Stored latents: what one takes, and that it makes no difference to the updates where they lie."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.policy import VLAPolicy
from irevla_trainer.bench.rl_samples import as_rollout, samples
from irevla_trainer.bench.rl_updates import Workload
from irevla_trainer.rl.latents import LatentStore
from irevla_trainer.rl.ppo import Ppo


@dataclass(frozen=True)
class Spilled:
    """Updates from latents in memory and from the same on disk.

    Attributes:
        bytes_per_decision: Of the hidden states.
        difference: Largest between the heads after both.
        memory_seconds: Of the updates from memory.
        disk_seconds: Of those from disk.
    """

    bytes_per_decision: float
    difference: float
    memory_seconds: float
    disk_seconds: float


def spill(workload: Workload, folder: Path) -> Spilled:
    """Update twice from the same start.

    Args:
        workload: What to learn from, and how.
        folder: For the latents on disk.
    """
    seconds, heads, size = [], [], 0.0
    for place in (None, folder):
        policy = VLAPolicy.create(ModelSettings(), RobotFacts.of(workload.domain.profile)).to(workload.device)
        torch.manual_seed(0)  # of the critic
        algorithm = Ppo(policy, workload.settings)
        store = LatentStore(workload.decisions, folder=place, device=policy.device)
        rollout = as_rollout(policy, samples(workload.domain, workload.decisions), store, algorithm.std)
        start = time.perf_counter()
        algorithm.learn(rollout, seed=0)
        seconds.append(time.perf_counter() - start)
        heads.append([parameter.detach().clone() for parameter in algorithm.learnt])
        size = store.bytes / store.capacity
    difference = max(float((one - other).abs().max()) for one, other in zip(*heads, strict=True))
    return Spilled(size, difference, *seconds)
