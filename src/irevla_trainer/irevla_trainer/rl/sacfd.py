"""Soft actor-critic from demonstrations (SACfD), in the manner of RLPD (Ball et al. 2023), on stored latents.

    fill the demonstration buffer with the first N successes of the policy as it is
    repeat
        collect episodes with a ~ N(mu(h), std^2), clipped to what the robot executes
        for each update, on a batch of half demonstrations, half online transitions:
            y = r + gamma (1 - done) (min over 2 of 5 target critics of Q(h', a') - alpha log pi(a'|h'))
            critics: (Q_i(h, a) - y)^2, then the targets move a little towards the critics
            actor: alpha log pi(a|h) - mean_i Q_i(h, a) + w |mu(h_demo) - a_demo|^2

The policy's action head is the mean, not squashed: a checkpoint means the same before and after. Only heads learn.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from irevla_policy.model.policy import Latent, VLAPolicy
from irevla_trainer.rl.algorithm import DivergedError
from irevla_trainer.rl.critics import CriticEnsemble
from irevla_trainer.rl.latents import LatentStore, concatenated, new_store
from irevla_trainer.rl.rollout import Rollout
from irevla_trainer.rl.settings import LatentSettings, SacfdSettings
from irevla_trainer.rl.soft_actor_critic import actor_loss, clipped, critics_loss, soft_target, temperature_loss
from irevla_trainer.rl.transitions import Transitions


@dataclass(frozen=True)
class _Batch:
    """B transitions.

    Attributes:
        latent: What was seen.
        next: What was seen after that.
        action: Normalised actions as executed `[B, a]`.
        reward: `[B]`.
        terminated: `[B]`.
        demonstrated: How many of the first are demonstrations.
    """

    latent: Latent
    next: Latent
    action: Tensor
    reward: Tensor
    terminated: Tensor
    demonstrated: int


class Sacfd:
    """SACfD of a policy's action head with new critics.

    Args:
        policy: Learns in place.
        settings: Of SACfD.
        latents: How they are stored.
        folder: Where the buffers keep their latents; in memory, and part of `tensors`, when left out.
    """

    def __init__(
        self,
        policy: VLAPolicy,
        settings: SacfdSettings,
        latents: LatentSettings | None = None,
        folder: Path | None = None,
    ) -> None:
        self.policy, self.settings = policy, settings
        self._latents, self._folder = latents or LatentSettings(), folder
        policy.freeze_backbone()
        head, device = policy.action_head, policy.device
        self.critics = CriticEnsemble.like(head, settings.critics, settings.critic_width, settings.critic_layers)
        self.critics.to(device)
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_std = torch.tensor(math.log(settings.noise), device=device, requires_grad=True)
        self.log_temperature = torch.tensor(
            math.log(settings.temperature) if settings.temperature else -math.inf, device=device, requires_grad=True
        )
        self.actor = list(head.parameters())
        groups: list[dict[str, Any]] = [
            {"params": self.actor},
            {"params": [self.log_std], "lr": settings.entropy_learning_rate},
        ]
        self.optimizers = {
            "critics": torch.optim.Adam(self.critics.parameters(), settings.critic_learning_rate, fused=True),
            "actor": torch.optim.Adam(groups, settings.actor_learning_rate, fused=True),
            "temperature": torch.optim.Adam([self.log_temperature], settings.entropy_learning_rate),
        }
        action_dim = head.shape[1]
        capacity = settings.capacity
        dtype = getattr(torch, self._latents.dtype)
        self.demonstrations = Transitions(capacity, action_dim, folder and folder / "demonstrations", device, dtype)
        self.online = Transitions(capacity, action_dim, folder and folder / "online", device, dtype)
        self.counts = {"episodes": 0, "demonstrations": 0, "updates": 0}
        bounds = [policy.normaliser.normalise_action(np.full(action_dim, end)) for end in (-1.0, 1.0)]
        self.low, self.high = (torch.from_numpy(bound).to(device) for bound in bounds)

    @property
    def episodes(self) -> int:
        """Episodes that an iteration takes."""
        return self.settings.episodes

    @property
    def filling(self) -> bool:
        """Whether demonstrations are still being collected; nothing learns yet."""
        return (
            self.counts["demonstrations"] < self.settings.demonstrations
            and self.counts["episodes"] < self.settings.demonstration_attempts
        )

    @property
    def std(self) -> float:
        """Standard deviation of the exploration noise on normalised actions."""
        return float(self.log_std.detach().exp())

    @property
    def noise_correlation(self) -> float:
        """Correlation of the noise of two decisions in a row."""
        return self.settings.noise_correlation

    def store(self, decisions: int) -> LatentStore:
        """An empty store for what a rollout sees; `learn` copies from it."""
        return new_store(decisions, self._latents, self._folder and self._folder / "rollout", self.policy.device)

    def learn(self, rollout: Rollout, seed: int) -> dict[str, float]:
        """Remember a rollout, then update.

        Args:
            rollout: Of the policy as it is now.
            seed: Of batches, noise and choice of critics.

        Returns:
            Figures: demonstrations (episodes), remembered (decisions), updates; while learning also critic_loss,
            actor_loss, q, imitation (mean squared distance to demonstrations), noise, temperature.

        Raises:
            DivergedError: A loss is not finite; the policy is as before the update that gave it.
        """
        self._remember(rollout)
        sums: dict[str, list[float]] = {}
        if not self.filling:
            updates = max(round(len(rollout) * self.settings.updates_per_decision), 1)
            updates += max(self.settings.warmup - self.counts["updates"], 0)
            random, noise = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
            for _ in range(updates):
                for name, value in self._update(random, noise).items():
                    sums.setdefault(name, []).append(value)
        return {name: float(np.mean(values)) for name, values in sums.items()} | {
            "demonstrations": float(self.counts["demonstrations"]),
            "remembered": float(len(self.demonstrations) + len(self.online)),
            "updates": float(self.counts["updates"]),
            "noise": self.std,
            "temperature": float(self.log_temperature.detach().exp()),
        }

    def tensors(self) -> dict[str, Tensor]:
        """All that `load` needs to go on, the policy's own weights left out.

        With a folder the latents stay in its files, which one iteration may be ahead of these tensors: `learn` of the
        same rollout writes the same latents again. Without one they are part of the tensors, 2 m d bytes each.
        """
        tensors = {f"counts/{name}": torch.tensor(value) for name, value in self.counts.items()}
        tensors |= {"log_std": self.log_std.detach(), "log_temperature": self.log_temperature.detach()}
        parts = {
            "critics": self.critics.state_dict(),
            "targets": self.targets.state_dict(),
            "demonstrations": self.demonstrations.tensors(),
            "online": self.online.tensors(),
        }
        for name, part in parts.items():
            tensors |= {f"{name}/{key}": value for key, value in part.items()}
        for name, optimizer in self.optimizers.items():
            for place, parameter in enumerate(_parameters(optimizer)):
                for key, value in optimizer.state.get(parameter, {}).items():
                    tensors[f"optimizer/{name}/{place}/{key}"] = value
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Continue from what `tensors` gave.

        Raises:
            RunError: A file with latents is missing, or of another size.
        """
        self.counts = {name: int(tensors[f"counts/{name}"]) for name in self.counts}
        for name in ("log_std", "log_temperature"):
            getattr(self, name).data.copy_(tensors[name])
        self.critics.load_state_dict(_part("critics", tensors))
        self.targets.load_state_dict(_part("targets", tensors))
        self.demonstrations.load(_part("demonstrations", tensors))
        self.online.load(_part("online", tensors))
        for key, value in tensors.items():
            if key.startswith("optimizer/"):
                _, name, place, entry = key.split("/")
                optimizer = self.optimizers[name]
                optimizer.state[_parameters(optimizer)[int(place)]][entry] = value.to(self.policy.device).clone()

    def _remember(self, rollout: Rollout) -> None:
        """Successes fill the demonstrations until there are enough, and those that somebody helped always do.

        All else is online experience.
        """
        action = torch.from_numpy(rollout.action)
        executed = clipped(action, self.low.cpu(), self.high.cpu()).numpy()
        success, helped = np.array(rollout.success), np.array(rollout.intervened)
        wanted = self.settings.demonstrations - self.counts["demonstrations"] if self.filling else 0
        chosen = np.flatnonzero(success)[: max(wanted, 0)]
        chosen = np.union1d(chosen, np.flatnonzero(success & helped))
        self.demonstrations.add(rollout, chosen, executed)
        self.online.add(rollout, np.setdiff1d(np.arange(len(success)), chosen), executed)
        self.counts["episodes"] += len(success)
        self.counts["demonstrations"] += len(chosen)

    def _batch(self, random: np.random.Generator) -> _Batch:
        size = self.settings.batch_size
        demonstrated = round(size * self.settings.demonstration_share)
        # Until both have something, one makes up the whole batch.
        demonstrated = size if not len(self.online) else demonstrated if len(self.demonstrations) else 0
        parts = [
            (buffer, buffer.sample(count, random))
            for buffer, count in ((self.demonstrations, demonstrated), (self.online, size - demonstrated))
            if count
        ]
        latent = concatenated([buffer.observations.latent(index) for buffer, index in parts])
        following = concatenated([buffer.observations.latent(buffer.next(index)) for buffer, index in parts])
        arrays = [
            np.concatenate([getattr(buffer, name)[index] for buffer, index in parts])
            for name in ("action", "reward", "terminated")
        ]
        action, reward, terminated = (torch.from_numpy(array).to(self.policy.device) for array in arrays)
        return _Batch(latent, following, action, reward, terminated, demonstrated)

    def _update(self, random: np.random.Generator, noise: torch.Generator) -> dict[str, float]:
        settings = self.settings
        batch = self._batch(random)
        temperature = self.log_temperature.detach().exp()

        with torch.no_grad():
            next_action, next_log_prob, _ = self._act(batch.next, noise)
            members = torch.from_numpy(random.choice(settings.critics, settings.target_critics, replace=False))
            next_q = self.targets(batch.next, next_action, members.to(next_action.device))
            target = soft_target(batch.reward, batch.terminated, next_q, next_log_prob, settings.gamma, temperature)
        pooled = self.critics.pooled(batch.latent)
        q = self.critics.value(pooled, batch.action)
        critic_loss = critics_loss(q, target)
        _check(critic_loss, "critics' loss", self.counts["updates"])
        figures = {"critic_loss": float(critic_loss.detach()), "q": float(q.detach().mean())}

        # The actor's gradient is that of the critics as they acted on this batch, before their step.
        acts = self.counts["updates"] >= settings.warmup and self.counts["updates"] % settings.updates_per_actor == 0
        if acts:
            figures |= self._actor_gradient(batch, pooled.detach(), temperature, noise)
        self.optimizers["critics"].zero_grad(set_to_none=True)
        critic_loss.backward()
        _check(
            nn.utils.get_total_norm(_gradients(self.optimizers["critics"])), "critics' gradient", self.counts["updates"]
        )
        self.optimizers["critics"].step()
        if acts:
            self.optimizers["actor"].step()
        with torch.no_grad():
            for slow, fast in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
                slow.lerp_(fast, settings.polyak)
        self.counts["updates"] += 1
        return figures

    def _actor_gradient(
        self, batch: _Batch, pooled: Tensor, temperature: Tensor, noise: torch.Generator
    ) -> dict[str, float]:
        settings = self.settings
        action, log_prob, mean = self._act(batch.latent, noise)
        loss = actor_loss(self.critics.value(pooled, action), log_prob, temperature)
        figures = {"actor_loss": float(loss.detach())}
        demonstration = batch.action[: batch.demonstrated]
        if len(demonstration):
            # A mean beyond the bounds executes the same action as one at the bounds.
            near = clipped(mean[: len(demonstration)], self.low, self.high)
            imitation = (near - demonstration).square().mean()
            figures["imitation"] = float(imitation.detach())
            loss = loss + settings.imitation_weight * imitation
        _check(loss, "actor's loss", self.counts["updates"])
        learnt = [*self.actor, *([self.log_std] if settings.temperature else [])]
        gradients = torch.autograd.grad(loss, learnt)
        _check(nn.utils.get_total_norm(gradients), "actor's gradient", self.counts["updates"])
        for parameter, gradient in zip(learnt, gradients, strict=True):
            parameter.grad = gradient
        if settings.target_noise:
            self._tune_temperature(log_prob.detach())
        return figures

    def _tune_temperature(self, log_prob: Tensor) -> None:
        entropy = len(self.low) * (math.log(self.settings.target_noise) + 0.5 * math.log(2 * math.pi * math.e))
        loss = temperature_loss(self.log_temperature, log_prob, entropy)
        self.optimizers["temperature"].zero_grad()
        loss.backward()
        self.optimizers["temperature"].step()

    def _act(self, latent: Latent, noise: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Sample: executed actions `[B, a]`, their log densities before clipping `[B]`, means `[B, a]`."""
        mean = self.policy.action_from_latent(latent)[:, 0]
        # What is not finite shows in the losses, which say where.
        normal = torch.distributions.Normal(mean, self.log_std.exp(), validate_args=False)
        sampled = mean + self.log_std.exp() * torch.randn(mean.shape, generator=noise).to(mean.device)
        return clipped(sampled, self.low, self.high), normal.log_prob(sampled).sum(-1), mean


def _check(value: Tensor, name: str, update: int) -> None:
    """Refuse a loss, or a norm of a gradient, that is not finite."""
    if not math.isfinite(float(value.detach())):
        raise DivergedError(f"SACfD: the {name} is {float(value.detach()):g} in update {update}")


def _gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter.grad for parameter in _parameters(optimizer) if parameter.grad is not None]


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _part(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{name}/"
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
