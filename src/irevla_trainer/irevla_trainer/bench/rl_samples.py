"""The same decisions for every way to learn from them: noise as images, the task's instructions, random states."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from irevla_policy.model.policy import VLAPolicy
from irevla_trainer.bench.rl_domain import Domain
from irevla_trainer.learn.decisions import Decisions
from irevla_trainer.rl.latents import ImageStore, LatentStore, encode
from irevla_trainer.rl.rollout import Rollout
from irevla_trainer.rl.worlds import EpisodeRequest, Seen

EPISODE = 64
"""Decisions of an episode."""

_BATCH = 64


def samples(domain: Domain, count: int, seed: int = 0) -> Seen:
    """What `count` decisions see; pixels do not change how long anything takes.

    Args:
        domain: Whose instructions to give, and whose cameras and joints.
        count: N.
        seed: Of the draw.
    """
    random = np.random.default_rng(seed)
    tasks, profile = domain.tasks, domain.profile
    return Seen(
        index=list(range(count)),
        step=[0] * count,
        images={
            camera.name: random.integers(0, 256, (count, camera.height, camera.width, 3), dtype=np.uint8)
            for camera in profile.cameras
        },
        instructions=[tasks.instruction(domain.task, "", row // EPISODE) for row in range(count)],
        state=random.standard_normal((count, profile.state_dim)).astype(np.float32),
    )


@dataclass(frozen=True)
class _Episode:
    images: dict[str, npt.NDArray[np.uint8]]
    instructions: list[str]
    state: npt.NDArray[np.float32]
    action: npt.NDArray[np.float32]


def demonstrations(domain: Domain, count: int) -> Decisions:
    """`count` such decisions with random actions, as supervised fine-tuning and rehearsal take them."""
    profile, seen = domain.profile, samples(domain, count)
    action = np.random.default_rng(1).uniform(-1, 1, (count, profile.action_dim)).astype(np.float32)
    episodes = []
    for first in range(0, count, EPISODE):
        part = seen.rows(range(first, min(first + EPISODE, count)))
        episodes.append(_Episode(part.images, part.instructions, part.state, action[first : first + EPISODE]))
    return Decisions(episodes, [camera.name for camera in profile.cameras])


@torch.no_grad()
def as_rollout(policy: VLAPolicy, seen: Seen, store: LatentStore | ImageStore, std: float, seed: int = 0) -> Rollout:
    """A rollout of the policy over these observations; every second episode succeeds.

    Args:
        policy: Acts.
        seen: N observations.
        store: Empty; takes them.
        std: Standard deviation of the exploration noise.
        seed: Of the noise.
    """
    count, means = len(seen.index), []
    for first in range(0, count, _BATCH):
        part = seen.rows(range(first, min(first + _BATCH, count)))
        latent = encode(policy, part.images, part.instructions, part.state)
        if isinstance(store, ImageStore):
            store.add(part)
        else:
            latent = store.rounded(latent)
            store.add(latent)
        means.append(policy.action_from_latent(latent)[:, 0].cpu().numpy())
    mean = np.concatenate(means)
    noise = np.random.default_rng(seed).standard_normal(mean.shape, dtype=np.float32)
    return rollout_of(store, mean, mean + np.float32(std) * noise, std)


def rollout_of(store: LatentStore | ImageStore, mean: np.ndarray, action: np.ndarray, std: float) -> Rollout:
    """Episodes over all observations of a store; every second one succeeds.

    Args:
        store: N observations.
        mean: Of the policy, `[N, a]`.
        action: As sampled, `[N, a]`.
        std: Of the noise.
    """
    index = np.arange(len(mean))
    ended = (index + 1) % EPISODE == 0
    ended[-1] = True
    terminated = ended & (index // EPISODE % 2 == 0)
    return Rollout(
        observations=store,
        index=index,
        next_index=np.where(ended, index, index + 1),
        action=action,
        mean=mean,
        std=std,
        reward=terminated.astype(np.float32),
        terminated=terminated,
        ended=ended,
        requests=[EpisodeRequest("", "", episode) for episode in range(int(ended.sum()))],
        success=[bool(value) for value in terminated[ended]],
        intervened=[False] * int(ended.sum()),
        trajectories=[],
    )
