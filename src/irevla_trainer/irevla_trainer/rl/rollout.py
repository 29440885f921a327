"""Rollouts: whole episodes of a policy with exploration noise, ready to learn from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from scipy.signal import lfilter

from irevla_policy.model.policy import Latent, VLAPolicy
from irevla_trainer.rl.latents import ImageStore, Indices, JoinedStores, LatentStore, encode
from irevla_trainer.rl.worlds import EpisodeRequest, RunsEpisodes, Seen

Float = npt.NDArray[np.float32]

_STEPS = 1024
"""More decisions than an episode has; noise is drawn for all at once, one generator an episode."""


@dataclass(frozen=True)
class Trajectory:
    """One successful episode, as supervised fine-tuning takes it (see `learn.decisions.EpisodeArrays`).

    Attributes:
        request: What was run.
        images: Camera name to RGB images, uint8 `[T, H, W, 3]`.
        instructions: T times what was to be done.
        state: Raw proprioceptive states `[T, s]`.
        executed: Raw actions that were executed, exploration noise included, `[T, a]`.
        intended: Raw actions that the policy would have taken without noise, `[T, a]`; of a person who intervened
            those that were carried out.
        intervened: Where a person did, `[T]`.
    """

    request: EpisodeRequest
    images: dict[str, npt.NDArray[np.uint8]]
    instructions: list[str]
    state: Float
    executed: Float
    intended: Float
    intervened: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Decided:
    """Decisions of whole episodes one after the other, N in all.

    Attributes:
        observations: Holds what was seen.
        index: Of each decision's observation in there, `[N]`.
        next_index: Of the observation after it, `[N]`; of its own where the episode was over.
        action: Normalised actions, as sampled, `[N, a]`.
        mean: Means of the distributions they were sampled from, `[N, a]`.
        std: Their common standard deviation.
        reward: 1 at success, else 0, `[N]`.
        terminated: Whether the episode was over, in success or in a failure that somebody saw, `[N]`.
        ended: Whether the episode ended, `[N]`; without `terminated` it was given up.
    """

    observations: LatentStore | ImageStore | JoinedStores
    index: Indices
    next_index: Indices
    action: Float
    mean: Float
    std: float
    reward: Float
    terminated: npt.NDArray[np.bool_]
    ended: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class Rollout(Decided):
    """What one policy did.

    Attributes:
        requests: The episodes, in the order of their decisions.
        success: Of each episode.
        intervened: Of each episode, whether somebody intervened; its actions are then those carried out.
        trajectories: The successful ones, as far as they were asked for.
    """

    requests: list[EpisodeRequest]
    success: list[bool]
    intervened: list[bool]
    trajectories: list[Trajectory]

    @property
    def success_rate(self) -> float:
        """Successful episodes over all."""
        return float(np.mean(self.success)) if self.success else 0.0


@dataclass
class _Episode:
    """An episode under way."""

    noise: Float
    index: list[int] = field(default_factory=list)
    action: list[Float] = field(default_factory=list)
    mean: list[Float] = field(default_factory=list)
    executed: list[Float] = field(default_factory=list)
    state: list[Float] = field(default_factory=list)
    images: dict[str, list[npt.NDArray[np.uint8]]] = field(default_factory=dict)
    instruction: str = ""
    success: bool = False
    failed: bool = False
    intervened: list[int] = field(default_factory=list)
    final: int = -1

    @property
    def over(self) -> bool:
        """Whether nothing is worth anything beyond its end; what was given up might have gone on."""
        return self.success or self.failed


def collect(
    worlds: RunsEpisodes,
    requests: Sequence[EpisodeRequest],
    policy: VLAPolicy,
    observations: LatentStore | ImageStore,
    std: float,
    seed: int,
    correlation: float = 0.0,
    keep_trajectories: bool = True,
    progress: Callable[[int], None] = lambda decisions: None,
) -> Rollout:
    """Run a policy on episodes, with Gaussian noise on its normalised actions.

    The noise of an episode follows from `seed` and the seed of its request alone. It is a stationary autoregressive
    process: of every decision by itself its distribution is N(0, std^2), whatever the correlation.

    Args:
        worlds: Run the episodes.
        requests: The episodes.
        policy: Acts; predicts one action at a time.
        observations: Where to put what is seen: a `LatentStore` sees every image pass the backbone once.
        std: Standard deviation of the noise; 0 for none.
        seed: Of the noise.
        correlation: Of the noise of two decisions in a row, in [0, 1).
        keep_trajectories: Whether to keep the images of successful episodes.
        progress: Called after every common step with the number of decisions.

    Raises:
        ValueError: The policy predicts several actions at a time.
    """
    if policy.settings.chunk != 1:
        raise ValueError(
            f"chunk: reinforcement learning takes one action at a time, the policy predicts {policy.settings.chunk}"
        )
    noise = partial(_noise, seed, correlation)
    actor = _Actor(policy, observations, std, noise, requests, keep_trajectories)
    policy.eval()
    for stepped in worlds.episodes(requests, actor.decide):
        for place, index in enumerate(stepped.index):
            actor.episodes[index].success = bool(stepped.terminated[place])
            actor.episodes[index].failed = stepped.failed is not None and bool(stepped.failed[place])
            if stepped.instead is not None and not np.isnan(stepped.instead[place]).any():
                actor.intervene(index, stepped.instead[place])
        if stepped.last is not None:
            actor.end(stepped.last)
        progress(actor.decisions)
    return actor.rollout()


def executed(policy: VLAPolicy, normalised: Float) -> Float:
    """The raw actions `[N, a]` in [-1, 1] that a robot carries out for normalised ones."""
    return np.clip(policy.normaliser.denormalise_action(normalised), -1.0, 1.0).astype(np.float32)


def _noise(seed: int, correlation: float, episode_seed: int, action_dim: int) -> Float:
    """Noise of standard deviation 1 for all decisions of an episode, `[_STEPS, a]`."""
    fresh = np.random.default_rng([seed, episode_seed]).standard_normal((_STEPS, action_dim), dtype=np.float32)
    fresh[1:] *= (1.0 - correlation**2) ** 0.5
    # e_t = c e_t-1 + sqrt(1 - c^2) z_t
    return np.asarray(lfilter([1.0], [1.0, -correlation], fresh, axis=0), dtype=np.float32)


class _Actor:
    """Decides for all running episodes in one batch and remembers what it saw and did."""

    def __init__(
        self,
        policy: VLAPolicy,
        observations: LatentStore | ImageStore,
        std: float,
        noise: Callable[[int, int], Float],
        requests: Sequence[EpisodeRequest],
        keep: bool,
    ) -> None:
        self.policy, self.observations, self.std, self.noise, self.keep = policy, observations, std, noise, keep
        self.requests = list(requests)
        self.episodes: dict[int, _Episode] = {}
        self.decisions = 0

    @torch.no_grad()
    def decide(self, seen: Seen) -> Float:
        latent, stored = self._store(seen)
        mean = self.policy.action_from_latent(latent)[:, 0].cpu().numpy()
        running = [self._episode(index, mean.shape[1]) for index in seen.index]
        noise = np.stack([episode.noise[step] for episode, step in zip(running, seen.step, strict=True)])
        action = mean + np.float32(self.std) * noise
        raw = executed(self.policy, action)
        for row, episode in enumerate(running):
            episode.index.append(int(stored[row]))
            episode.action.append(action[row])
            episode.mean.append(mean[row])
            if self.keep:
                episode.executed.append(raw[row])
                episode.state.append(seen.state[row].copy())
                episode.instruction = seen.instructions[row]
                for camera, images in seen.images.items():
                    episode.images.setdefault(camera, []).append(images[row].copy())
        self.decisions += len(running)
        return raw

    def intervene(self, index: int, raw: Float) -> None:
        """Replace an episode's last action by what was carried out, `[a]`."""
        episode = self.episodes[index]
        episode.intervened.append(len(episode.action) - 1)
        episode.action[-1] = self.policy.normaliser.normalise_action(raw).astype(np.float32)
        if self.keep:
            episode.executed[-1] = np.asarray(raw, dtype=np.float32)

    @torch.no_grad()
    def end(self, last: Seen) -> None:
        """Remember what was seen at the end of given-up episodes: their value goes on beyond it."""
        rows = [row for row, index in enumerate(last.index) if not self.episodes[index].over]
        if not rows:
            return
        given_up = last.rows(rows)
        _, stored = self._store(given_up)
        for index, place in zip(given_up.index, stored, strict=True):
            self.episodes[index].final = int(place)

    def _store(self, seen: Seen) -> tuple[Latent, Indices]:
        latent = encode(self.policy, seen.images, seen.instructions, seen.state)
        if isinstance(self.observations, ImageStore):
            return latent, self.observations.add(seen)
        latent = self.observations.rounded(latent)
        return latent, self.observations.add(latent)

    def _episode(self, index: int, action_dim: int) -> _Episode:
        if index not in self.episodes:
            self.episodes[index] = _Episode(self.noise(self.requests[index].seed, action_dim))
        return self.episodes[index]

    def rollout(self) -> Rollout:
        ordered = [self.episodes[index] for index in range(len(self.requests))]
        lengths = [len(episode.index) for episode in ordered]
        ended = np.zeros(sum(lengths), dtype=bool)
        ended[np.cumsum(lengths) - 1] = True
        terminated = ended.copy()
        terminated[ended] = [episode.over for episode in ordered]
        reward = np.zeros(len(ended), np.float32)
        reward[ended] = [episode.success for episode in ordered]
        following = [[*episode.index[1:], episode.index[-1] if episode.over else episode.final] for episode in ordered]
        return Rollout(
            observations=self.observations,
            index=np.concatenate([episode.index for episode in ordered]),
            next_index=np.concatenate(following),
            action=np.concatenate([np.stack(episode.action) for episode in ordered]),
            mean=np.concatenate([np.stack(episode.mean) for episode in ordered]),
            std=self.std,
            reward=reward,
            terminated=terminated,
            ended=ended,
            requests=self.requests,
            success=[episode.success for episode in ordered],
            intervened=[bool(episode.intervened) for episode in ordered],
            trajectories=[
                self._trajectory(request, episode)
                for request, episode in zip(self.requests, ordered, strict=True)
                if self.keep and episode.success
            ],
        )

    def _trajectory(self, request: EpisodeRequest, episode: _Episode) -> Trajectory:
        intended = executed(self.policy, np.stack(episode.mean))
        intervened = np.zeros(len(intended), dtype=bool)
        intervened[episode.intervened] = True
        intended[intervened] = np.stack(episode.executed)[intervened]
        return Trajectory(
            request=request,
            images={camera: np.stack(images) for camera, images in episode.images.items()},
            instructions=[episode.instruction] * len(episode.index),
            state=np.stack(episode.state),
            executed=np.stack(episode.executed),
            intended=intended,
            intervened=intervened,
        )
