"""The same network in stable-baselines3's PPO: the frozen backbone as its features extractor, the same heads behind it.

stable-baselines3 stores observations, so that every minibatch passes the backbone again. Given to it as favourably as
it allows: images are resized and texts are tokenised before they are stored, the backbone runs without gradients, and
the optimiser is the fused one that ours is.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box
from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from irevla_policy.model.heads import CriticHead
from irevla_policy.model.policy import Latent, VLAPolicy
from irevla_trainer.rl.rollout import Rollout
from irevla_trainer.rl.settings import PpoSettings
from irevla_trainer.rl.worlds import Seen

Arrays = dict[str, np.ndarray]


class FrozenBackbone(BaseFeaturesExtractor):
    """Features extractor: images, tokens and state to a `Latent`."""

    mean: Tensor
    std: Tensor

    def __init__(self, observation_space: gym.spaces.Dict, policy: VLAPolicy) -> None:
        """Args: policy: Whose backbone to use; it is frozen."""
        super().__init__(observation_space, features_dim=policy.backbone.width)
        policy.freeze_backbone()
        self.backbone = policy.backbone.requires_grad_(False)
        images = policy.processor.vlm.image_processor
        self.register_buffer("mean", torch.tensor(images.image_mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(images.image_std).view(1, 3, 1, 1))

    def train(self, mode: bool = True) -> FrozenBackbone:
        """Switch to training; a frozen backbone stays as in serving."""
        super().train(mode)
        self.backbone.eval()
        return self

    @torch.no_grad()
    def forward(self, observations: dict[str, Tensor]) -> Latent:
        """Encode a batch as stable-baselines3 hands it out: images in [0, 1], everything else as float."""
        # The cameras' images of a decision, one after the other in its channels, are images one after the other here.
        images = observations["image"].unflatten(1, (-1, 3)).flatten(0, 1)
        hidden, mask = self.backbone(
            {
                "pixel_values": (images - self.mean) / self.std,
                "input_ids": observations["input_ids"].long(),
                "attention_mask": observations["attention_mask"].long(),
            }
        )
        return Latent(hidden, mask, observations["state"])


class Heads(nn.Module):
    """Actor and critic where stable-baselines3 has its two MLPs: latents to mean `[B, a]` and value `[B, 1]`."""

    def __init__(self, policy: VLAPolicy, critic: CriticHead) -> None:
        super().__init__()
        self.actor, self.critic = policy.action_head, critic

    def forward(self, latent: Latent) -> tuple[Tensor, Tensor]:
        """Both."""
        return self.forward_actor(latent), self.forward_critic(latent)

    def forward_actor(self, latent: Latent) -> Tensor:
        """Means of the actions."""
        return self.actor(latent.hidden, latent.mask, latent.state)[:, 0]

    def forward_critic(self, latent: Latent) -> Tensor:
        """Values."""
        return self.critic(latent.hidden, latent.mask, latent.state)[:, None]


def sb3_ppo(policy: VLAPolicy, critic: CriticHead, seen: Seen, rollout: Rollout, settings: PpoSettings) -> PPO:
    """PPO of stable-baselines3 on a policy, its buffer filled with a rollout.

    Args:
        policy: A backbone of the BLIP-2 family; its head learns in place.
        critic: Learns in place.
        seen: The rollout's observations, N.
        rollout: The decisions.
        settings: Epochs, minibatch, clipping, weights and learning rate of the critic.
    """
    arrays = observations(policy, seen)
    ppo = PPO(
        "MultiInputPolicy",
        env=None,
        learning_rate=settings.critic_learning_rate,
        n_steps=len(rollout),
        batch_size=settings.minibatch,
        n_epochs=settings.epochs,
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
        clip_range=settings.clip,
        vf_coef=settings.value_weight,
        max_grad_norm=settings.gradient_clip,
        policy_kwargs={
            "net_arch": [],
            "ortho_init": False,
            "features_extractor_class": FrozenBackbone,
            "features_extractor_kwargs": {"policy": policy},
        },
        device=policy.device,
        _init_setup_model=False,
    )
    ppo.observation_space = gym.spaces.Dict({name: _space(array) for name, array in arrays.items()})
    ppo.action_space = Box(-10.0, 10.0, (rollout.action.shape[1],))
    ppo.n_envs = 1
    ppo._setup_model()
    _put_heads(ppo.policy, policy, critic, rollout.std, settings)
    ppo.set_logger(configure(None, []))
    _fill(ppo, arrays, rollout)
    return ppo


def observations(policy: VLAPolicy, seen: Seen) -> Arrays:
    """What stable-baselines3 stores of N observations: images, tokens and states.

    Images are `[N, 3 c, h, w]` at the backbone's size, the channels of c cameras: it takes three-dimensional ones.
    """
    inputs = policy.processor(seen.images, seen.instructions, seen.state)
    images = policy.processor.vlm.image_processor
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (images.image_mean, images.image_std))
    pixels = ((inputs.vlm["pixel_values"] * std + mean) * 255.0).round().to(torch.uint8)
    pixels = pixels.unflatten(0, (len(seen.instructions), -1)).flatten(1, 2)
    state = inputs.state if policy.settings.use_state else inputs.state[:, :0]
    tokens = {name: inputs.vlm[name].numpy() for name in ("input_ids", "attention_mask")}
    return {"image": pixels.numpy(), **tokens, "state": state.numpy()}


def _space(array: np.ndarray) -> Box:
    if array.dtype == np.uint8:
        return Box(0, 255, array.shape[1:], np.uint8)
    return Box(-(2**15), 2**15, array.shape[1:], array.dtype.type)


def _put_heads(module: Any, policy: VLAPolicy, critic: CriticHead, std: float, settings: PpoSettings) -> None:
    """Replace what stable-baselines3 put behind the features extractor."""
    module.mlp_extractor = Heads(policy, critic)
    module.action_net, module.value_net = nn.Identity(), nn.Identity()
    module.log_std.requires_grad_(False).fill_(math.log(std))
    learnt = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.optimizer = torch.optim.Adam(learnt, lr=settings.critic_learning_rate, eps=1e-5, fused=True)


@torch.no_grad()
def _fill(ppo: PPO, arrays: Arrays, rollout: Rollout) -> None:
    module: Any = ppo.policy
    buffer: Any = ppo.rollout_buffer
    starts = np.concatenate([[True], rollout.ended[:-1]])
    for row in range(len(rollout)):
        one = {name: array[row : row + 1] for name, array in arrays.items()}
        action = torch.from_numpy(rollout.action[row : row + 1]).to(module.device)
        value, log_prob, _ = module.evaluate_actions(module.obs_to_tensor(one)[0], action)
        buffer.add(one, rollout.action[row], rollout.reward[row], starts[row : row + 1], value, log_prob)
    buffer.compute_returns_and_advantage(torch.zeros(1), rollout.ended[-1:])
