"""Proximal policy optimisation (Schulman et al. 2017) on stored observations.

    collect whole episodes with a ~ N(mu(h), std^2), the noise of successive decisions correlated
    V(h) for every latent, advantages by GAE
    for each epoch, for each minibatch:
        ratio = pi(a|h) / pi_old(a|h)
        loss = -rho min(ratio A, clip(ratio, 1 - c, 1 + c) A) + w_v (V(h) - return)^2 + w_r (mu(h_r) - a_r)^2
        stop when KL(pi_old || pi) exceeds its limit

(h_r, a_r) are rehearsed: demonstrations and earlier successes. rho is 1 for decisions of this iteration's rollout;
those of earlier ones can be learnt from again, see `rl.reuse`. pi is the density of each decision by itself, as for the
coloured noise of Hollenstein et al. 2024.

With a `LatentStore` only the heads learn (stage 1 of iRe-VLA); with an `ImageStore` the backbone learns too.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from irevla_policy.model.policy import Latent, VLAPolicy
from irevla_trainer.learn.decisions import Decisions
from irevla_trainer.rl.advantage import generalised_advantages
from irevla_trainer.rl.algorithm import DivergedError
from irevla_trainer.rl.latents import ImageStore, Indices, JoinedStores, LatentStore, new_store
from irevla_trainer.rl.rehearsal import Rehearsal, rehearse
from irevla_trainer.rl.reuse import Batch, RecentRollouts
from irevla_trainer.rl.rollout import Rollout
from irevla_trainer.rl.settings import LatentSettings, PpoSettings

_VALUE_BATCH = 1024
_PACES = (0.01, 10.0)


class Ppo:
    """PPO of a policy's action head with a new critic.

    Args:
        policy: Learns in place.
        settings: Of PPO.
        whole_model: Train the backbone as well (PPO-Replay, for comparison) instead of the heads alone.
        latents: How they are stored.
        folder: For their files.
        rehearsed: What is imitated beside, if the settings give it a weight.
    """

    def __init__(
        self,
        policy: VLAPolicy,
        settings: PpoSettings,
        whole_model: bool = False,
        latents: LatentSettings | None = None,
        folder: Path | None = None,
        rehearsed: Decisions | None = None,
    ) -> None:
        self.policy, self.settings, self.whole_model = policy, settings, whole_model
        self._latents, self._folder = latents or LatentSettings(), folder
        self.critic = policy.new_critic()
        self.iteration = 0
        self.pace = 1.0
        if whole_model:
            policy.unfreeze_backbone()
        else:
            policy.freeze_backbone()
        groups = [
            {"name": "actor", "params": list(policy.action_head.parameters()), "lr": settings.actor_learning_rate},
            {"name": "critic", "params": list(self.critic.parameters()), "lr": settings.critic_learning_rate},
        ]
        if whole_model:
            groups.append(
                {"name": "backbone", "params": policy.backbone.tunable(), "lr": settings.backbone_learning_rate}
            )
        self.rehearsal: Rehearsal | None = None
        if rehearsed is not None and len(rehearsed) and settings.rehearsal_weight:
            self.rehearsal = rehearse(policy, rehearsed, self._store(len(rehearsed), "rehearsal"))
        self.recent = RecentRollouts(settings.reuse, self._latent_store, self._mean)
        self.optimizer = torch.optim.Adam(groups, eps=1e-5, fused=True)
        self.learnt = [parameter for group in groups for parameter in group["params"]]  # type: ignore[attr-defined]

    @property
    def episodes(self) -> int:
        """Episodes that an iteration takes."""
        return self.settings.episodes

    @property
    def std(self) -> float:
        """Standard deviation of the exploration noise on normalised actions."""
        return self.settings.noise

    @property
    def noise_correlation(self) -> float:
        """Correlation of the noise of two decisions in a row."""
        return self.settings.noise_correlation

    def store(self, decisions: int) -> LatentStore | ImageStore:
        """An empty store for what a rollout sees."""
        return ImageStore(self.policy) if self.whole_model else self.recent.store(decisions)

    def _store(self, decisions: int, name: str) -> LatentStore | ImageStore:
        return ImageStore(self.policy) if self.whole_model else self._latent_store(decisions, name)

    def _latent_store(self, decisions: int, name: str) -> LatentStore:
        return new_store(decisions, self._latents, self._folder and self._folder / name, self.policy.device)

    @torch.no_grad()
    def _mean(self, latent: Latent) -> Tensor:
        return self.policy.action_from_latent(latent)[:, 0]

    def learn(self, rollout: Rollout, seed: int) -> dict[str, float]:
        """One iteration of updates.

        Args:
            rollout: Of the policy as it is now.
            seed: Of the order of the decisions.

        Returns:
            Figures: policy_loss, value_loss, value_error (root mean square, before the updates), explained_variance,
            kl (at the end), clipped (share of ratios), updates (of the policy), pace (factor on its learning rates),
            imitation (mean squared distance to what is rehearsed).

        Raises:
            DivergedError: A loss is not finite; the policy is as before the update that gave it.
        """
        batch = self.recent.join(rollout, _VALUE_BATCH)
        value, next_value = self._values(batch)
        advantage, returns = generalised_advantages(
            batch.reward,
            value,
            next_value,
            batch.terminated,
            batch.ended,
            self.settings.gamma,
            self.settings.gae_lambda,
            batch.importance,
        )
        newest = slice(len(batch) - len(rollout), None)  # what the critic has not learnt from yet
        figures = {
            "value_error": float(np.sqrt(np.mean((returns - value)[newest] ** 2))),
            "explained_variance": explained_variance(value[newest], returns[newest]),
        }
        warm = self.iteration < self.settings.warmup
        self._set_pace()
        figures |= self._update(batch, advantage, returns, warm, np.random.default_rng(seed))
        if not warm:
            self._adapt(figures["kl"])
        self.iteration += 1
        return figures | {"pace": self.pace}

    def _adapt(self, kl: float) -> None:
        """Hurry when the policy hardly moved, and slow down when it moved too far."""
        target = self.settings.kl_target
        if target and kl < target / 1.5:
            self.pace = min(self.pace * 1.5, _PACES[1])
        elif target and kl > target * 1.5:
            self.pace = max(self.pace / 1.5, _PACES[0])

    def _set_pace(self) -> None:
        """The learning rates of what the policy consists of; the critic keeps its own."""
        rates = {"actor": self.settings.actor_learning_rate, "backbone": self.settings.backbone_learning_rate}
        for group in self.optimizer.param_groups:
            if group["name"] in rates:
                group["lr"] = rates[group["name"]] * self.pace

    def tensors(self) -> dict[str, Tensor]:
        """All that `load` needs to go on, the policy's own weights left out."""
        tensors = {f"critic/{name}": value for name, value in self.critic.state_dict().items()}
        tensors |= {f"recent/{name}": tensor for name, tensor in self.recent.tensors().items()}
        tensors |= {"iteration": torch.tensor(self.iteration), "pace": torch.tensor(self.pace, dtype=torch.float64)}
        for place, parameter in enumerate(self.learnt):
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{place}/{key}"] = value
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Continue from what `tensors` gave."""
        self.iteration, self.pace = int(tensors["iteration"]), float(tensors["pace"])
        prefix = "critic/"
        self.critic.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        prefix = "recent/"
        recent = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if recent:  # a stage that was begun before there was such a thing has none
            self.recent.load(recent)
        for name, value in tensors.items():
            if name.startswith("optimizer/"):
                _, place, key = name.split("/")
                # All of it, the number of steps too: the optimizer is fused.
                self.optimizer.state[self.learnt[int(place)]][key] = value.to(self.policy.device).clone()

    @torch.no_grad()
    def _values(self, decided: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Values of the observations and of those after them."""
        needed, place = np.unique(np.concatenate([decided.index, decided.next_index]), return_inverse=True)
        parts = [
            self._value(decided.observations.latent(needed[first : first + _VALUE_BATCH])).cpu().numpy()
            for first in range(0, len(needed), _VALUE_BATCH)
        ]
        values = np.concatenate(parts)[place]
        return values[: len(decided)], values[len(decided) :]

    def _value(self, latent: Latent) -> Tensor:
        return self.critic(latent.hidden, latent.mask, latent.state)

    def _update(
        self,
        decided: Batch,
        advantage: np.ndarray,
        returns: np.ndarray,
        warm: bool,
        random: np.random.Generator,
    ) -> dict[str, float]:
        settings, device = self.settings, self.policy.device
        arrays = (decided.action, decided.mean, advantage, returns, decided.importance)
        tensors = [torch.from_numpy(array).to(device) for array in arrays]
        names = ("policy_loss", "value_loss", "kl", "clipped", *(["imitation"] if self.rehearsal else []))
        history: dict[str, list[float]] = {name: [] for name in names}
        critic_only = warm
        observations = self._settled(decided.observations) if warm else decided.observations
        for batch in minibatches(len(decided), settings.minibatch, settings.epochs, random):
            latent = observations.latent(decided.index[batch])
            action, old_mean, gain, target, importance = (tensor[torch.from_numpy(batch)] for tensor in tensors)
            loss, figures = self._loss(latent, action, old_mean, gain, target, importance, decided.std, critic_only)
            if self.rehearsal is not None and not critic_only:
                imitation = self._imitation(self.rehearsal, len(batch), random)
                figures["imitation"] = float(imitation.detach())
                loss = loss + settings.rehearsal_weight * imitation
            if figures.get("kl", 0.0) > settings.kl_stop:
                # Far enough from where the data came from: the critic alone goes on.
                history["kl"] = [figures["kl"]]
                critic_only = True
                observations = self._settled(observations)
                continue
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = float(nn.utils.clip_grad_norm_(self.learnt, settings.gradient_clip))
            if not math.isfinite(norm):
                raise DivergedError(
                    f"the loss of PPO is {float(loss.detach()):g} and the norm of its gradient {norm:g} in iteration "
                    f"{self.iteration}"
                )
            self.optimizer.step()
            for name, value in figures.items():
                history[name].append(value)
        averaged = {name: float(np.mean(values)) if values else 0.0 for name, values in history.items()}
        # What the last pass saw: how far the policy came.
        last = history["kl"][-max(round(len(decided) / settings.minibatch), 1) :]
        return averaged | {"kl": float(np.mean(last)) if last else 0.0, "updates": float(len(history["policy_loss"]))}

    def _imitation(self, rehearsal: Rehearsal, count: int, random: np.random.Generator) -> Tensor:
        latent, action = rehearsal.batch(count, random)
        return (self.policy.action_from_latent(latent)[:, 0] - action).square().mean()

    def _settled(self, observations: LatentStore | ImageStore | JoinedStores) -> LatentStore | JoinedStores:
        """What the critic alone goes on with: its backbone stays as it is, so every image passes it once."""
        return observations.encoded() if isinstance(observations, ImageStore) else observations

    def _loss(
        self,
        latent: Latent,
        action: Tensor,
        old_mean: Tensor,
        advantage: Tensor,
        returns: Tensor,
        importance: Tensor,
        std: float,
        critic_only: bool,
    ) -> tuple[Tensor, dict[str, float]]:
        value_loss = (self._value(latent) - returns).square().mean()
        if critic_only:
            return value_loss, {"value_loss": float(value_loss.detach())}
        mean = self.policy.action_from_latent(latent)[:, 0]
        ratio = (gaussian_log_prob(action, mean, std) - gaussian_log_prob(action, old_mean, std)).exp()
        policy_loss = clipped_policy_loss(ratio, advantage, self.settings.clip, importance)
        kl = gaussian_kl(old_mean, mean, std).mean()
        loss = policy_loss + self.settings.value_weight * value_loss
        figures = {
            "policy_loss": float(policy_loss.detach()),
            "value_loss": float(value_loss.detach()),
            "kl": float(kl.detach()),
            "clipped": float(((ratio - 1).abs() > self.settings.clip).float().mean()),
        }
        return loss, figures


def clipped_policy_loss(ratio: Tensor, advantage: Tensor, clip: float, importance: Tensor) -> Tensor:
    """Clipped surrogate (PPO, eq. 7), advantages normalised over the batch; a scalar to minimise.

    Decisions of others count by their importance, in a weighted mean.

    Args:
        ratio: Probability ratios `[B]`.
        advantage: `[B]`.
        clip: Clipping range.
        importance: `[B]`, 1 for decisions of the policy itself.
    """
    if len(advantage) > 1:
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    gain = torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    return -(importance * gain).sum() / importance.sum()


def gaussian_log_prob(action: Tensor, mean: Tensor, std: float) -> Tensor:
    """Log density of N(mean, std^2 I) at `[B, a]`, `[B]`."""
    constant = math.log(std) + 0.5 * math.log(2 * math.pi)
    return (-(action - mean).square() / (2 * std**2) - constant).sum(-1)


def gaussian_kl(mean: Tensor, other: Tensor, std: float) -> Tensor:
    """KL(N(mean, std^2 I) || N(other, std^2 I)), `[B]`."""
    return (mean - other).square().sum(-1) / (2 * std**2)


def explained_variance(value: np.ndarray, returns: np.ndarray) -> float:
    """1 - Var(returns - value) / Var(returns): 1 for a perfect critic, 0 for a constant one; NaN-free."""
    variance = float(np.var(returns))
    return 1.0 - float(np.var(returns - value)) / variance if variance > 0 else 0.0


def minibatches(count: int, size: int, epochs: int, random: np.random.Generator) -> list[Indices]:
    """Random minibatches of every epoch; a rest of less than half a batch joins the batch before it."""
    batches = []
    for _ in range(epochs):
        order = random.permutation(count)
        parts = max(round(count / size), 1)
        batches += np.array_split(order, parts)
    return batches
