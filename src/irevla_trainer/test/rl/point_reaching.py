"""Reach a point in the plane: latents are a fixed map of the situation, so that only the learning is on trial."""

from __future__ import annotations

import copy
import functools

import numpy as np
import torch

from irevla_policy.model.heads import ActionHead, CriticHead
from irevla_policy.model.normalisation import Affine, Normaliser
from irevla_policy.model.policy import Latent
from irevla_trainer.rl.latents import LatentStore
from irevla_trainer.rl.rollout import Rollout
from irevla_trainer.rl.worlds import EpisodeRequest

TOKENS, WIDTH, STEPS = 4, 32, 25
SHAPE = {"slots": 4, "hidden": 64, "layers": 2}
SPEED, NEAR, OFFSET = 0.12, 0.08, 0.09  # per decision at full deflection; distance that counts as success


class PointPolicy:
    """What the algorithms use of a `VLAPolicy`, without images."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.action_head = ActionHead(WIDTH, 2, 2, 1, **SHAPE)
        self.device = torch.device("cpu")
        self.normaliser = Normaliser(Affine.identity(2), Affine(np.zeros(2), np.full(2, 0.6), -np.ones(2), np.ones(2)))

    def new_critic(self) -> CriticHead:
        return CriticHead(WIDTH, 2, **SHAPE)

    def action_from_latent(self, latent: Latent) -> torch.Tensor:
        return self.action_head(latent.hidden, latent.mask, latent.state)

    def freeze_backbone(self) -> None:
        pass


def latent_of(place: np.ndarray, goal: np.ndarray) -> Latent:
    """Tokens see place and goal; the proprioceptive state is the place."""
    random = np.random.default_rng(0)
    weight = random.normal(size=(4, TOKENS * WIDTH)).astype(np.float32)
    bias = random.normal(size=TOKENS * WIDTH).astype(np.float32)
    both = np.concatenate([place, goal], axis=1).astype(np.float32)
    hidden = torch.from_numpy(both @ weight + bias).view(-1, TOKENS, WIDTH)
    return Latent(hidden, torch.ones(hidden.shape[:2], dtype=torch.bool), torch.from_numpy(both[:, :2].copy()))


def situations(count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Places and goals `[count, 2]` at least 0.5 apart."""
    place = random.uniform(-1, 1, (count, 2))
    angle, distance = random.uniform(0, 2 * np.pi, count), random.uniform(0.5, 1.5, count)
    return place, place + distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def cloned_policy(seed: int = 0) -> PointPolicy:
    """Cloned from an expert that is wrong about the goal by OFFSET."""
    return copy.deepcopy(_clone(seed))


@functools.cache
def _clone(seed: int) -> PointPolicy:
    policy = PointPolicy(seed)
    random = np.random.default_rng(seed)
    optimizer = torch.optim.Adam(policy.action_head.parameters(), lr=3e-3)
    for _ in range(300):
        place, goal = situations(128, random)
        place += random.uniform(0, 1, (128, 1)) * (goal - place)
        raw = np.clip((goal + np.array([OFFSET, 0.0]) - place) / SPEED, -1, 1)
        target = torch.from_numpy(policy.normaliser.normalise_action(raw))
        loss = (policy.action_from_latent(latent_of(place, goal))[:, 0] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return policy


@torch.no_grad()
def roll(policy: PointPolicy, store, std: float, episodes: int, seed: int) -> Rollout:
    """Whole episodes with exploration noise, as `collect` makes them."""
    random = np.random.default_rng(seed)
    place, goal = situations(episodes, random)
    running = np.arange(episodes)
    steps: list[list[tuple]] = [[] for _ in range(episodes)]
    final, success = [0] * episodes, [False] * episodes
    for step in range(STEPS):
        latent = store.rounded(latent_of(place[running], goal[running]))
        stored = store.add(latent)
        mean = policy.action_from_latent(latent)[:, 0].numpy()
        action = (mean + std * random.standard_normal(mean.shape)).astype(np.float32)
        place[running] += SPEED * np.clip(policy.normaliser.denormalise_action(action), -1, 1)
        near = np.linalg.norm(place[running] - goal[running], axis=1) < NEAR
        for row, episode in enumerate(running):
            steps[episode].append((stored[row], action[row], mean[row]))
            success[episode] = bool(near[row])
        running = running[~near]
        if not len(running):
            break
        if step == STEPS - 1:
            for episode, row in zip(running, store.add(latent_of(place[running], goal[running])), strict=True):
                final[episode] = int(row)
    index = [np.array([one[0] for one in episode]) for episode in steps]
    following = [np.append(i[1:], i[-1] if s else f) for i, s, f in zip(index, success, final, strict=True)]
    ended = np.concatenate([np.arange(len(i)) == len(i) - 1 for i in index])
    terminated = ended.copy()
    terminated[ended] = success
    action, mean = (np.array([one[part] for episode in steps for one in episode]) for part in (1, 2))
    requests = [EpisodeRequest("point", "", seed) for _ in range(episodes)]
    return Rollout(
        store, np.concatenate(index), np.concatenate(following), action, mean, std,
        terminated.astype(np.float32), terminated, ended, requests, success, [False] * episodes, [],
    )  # fmt: skip


def success_rate(policy: PointPolicy, episodes: int = 200, seed: int = 10_000) -> float:
    """Without noise."""
    return roll(policy, LatentStore(episodes * (STEPS + 1)), 0.0, episodes, seed).success_rate


def improve(policy: PointPolicy, algorithm, decisions: int, seed: int = 0, every: int = 600) -> list[tuple[int, float]]:
    """Run stage 1; returns success without noise by decisions, about `every` so many decisions."""
    done, iteration, curve = 0, 0, [(0, success_rate(policy))]
    while done < decisions:
        store = algorithm.store(algorithm.episodes * (STEPS + 1))
        rollout = roll(policy, store, algorithm.std, algorithm.episodes, 1000 * seed + iteration)
        algorithm.learn(rollout, 1000 * seed + iteration)
        done, iteration = done + len(rollout), iteration + 1
        if done - curve[-1][0] >= every or done >= decisions:
            curve.append((done, success_rate(policy)))
    return curve
