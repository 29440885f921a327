"""A policy whose latent is the observation itself, with any network as its head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from irevla_policy.model.policy import Latent


class StateHead(nn.Module):
    """A network on the state alone, called as the heads of a `VLAPolicy` are."""

    def __init__(self, network: nn.Module, *, value: bool) -> None:
        super().__init__()
        self.network, self.value = network, value

    def forward(self, hidden: Tensor, mask: Tensor, state: Tensor) -> Tensor:
        out = self.network(state)
        return out[:, 0] if self.value else out[:, None]


class PlainPolicy:
    """What `Ppo` uses of a `VLAPolicy`."""

    def __init__(self, actor: nn.Module, critic: nn.Module) -> None:
        self.action_head = StateHead(actor, value=False)
        self._critic = StateHead(critic, value=True)
        self.device = torch.device("cpu")

    def new_critic(self) -> nn.Module:
        return self._critic

    def action_from_latent(self, latent: Latent) -> Tensor:
        return self.action_head(latent.hidden, latent.mask, latent.state)

    def freeze_backbone(self) -> None:
        pass


def latent_of(state: Tensor) -> Latent:
    return Latent(torch.zeros(len(state), 1, 1), torch.ones(len(state), 1, dtype=torch.bool), state)
