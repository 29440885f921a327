"""An ensemble of critics Q(h, s, a) as one batched network (REDQ, Chen et al. 2021; RLPD, Ball et al. 2023)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from irevla_policy.model.heads import ActionHead, TokenLearner
from irevla_policy.model.policy import Latent


class CriticEnsemble(nn.Module):
    """One token learner, then E MLPs with layer normalisation, each with weights of its own.

    The members share the token learner as RLPD's share their image encoder; one each would cost three times as much.
    What does not depend on the action, `pooled`, is apart from what does, `value`, so that one pooling serves several
    actions.
    """

    def __init__(
        self, width: int, state_dim: int, action_dim: int, *, members: int, slots: int, hidden: int, layers: int
    ) -> None:
        """Args: width: d. state_dim: s. action_dim: a. members: E. slots: Of the token learner. hidden, layers: MLP."""
        super().__init__()
        self.members = members
        self.learner = TokenLearner(width, state_dim, slots)
        self.norm = nn.LayerNorm(width)
        sizes = [width + state_dim + action_dim] + [hidden] * layers
        self.weights = nn.ParameterList([_linear(members, a, b) for a, b in pairwise(sizes)])
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(members, 1, b)) for b in sizes[1:]])
        # Small first values: the untrained critics stay near 0.
        self.last = nn.Parameter(0.01 * torch.randn(members, sizes[-1], 1))
        self.last_bias = nn.Parameter(torch.zeros(members, 1, 1))

    @classmethod
    def like(cls, head: ActionHead, members: int, hidden: int, layers: int) -> CriticEnsemble:
        """An untrained ensemble for the latents and actions of an action head.

        Args:
            head: The action head.
            members: E.
            hidden: Width of the MLPs.
            layers: Hidden layers of the MLPs.
        """
        learner = head.learner
        state_dim = learner.state_query.in_features if learner.state_query is not None else 0
        width, slots = learner.out.in_features, learner.slots
        return cls(width, state_dim, head.shape[1], members=members, slots=slots, hidden=hidden, layers=layers)

    def pooled(self, latent: Latent) -> Tensor:
        """What the critics see of latents `[B, ...]`: `[B, d + s]`."""
        pooled = self.norm(self.learner(latent.hidden, latent.mask, latent.state))
        return torch.cat([pooled, latent.state], dim=-1)

    def value(self, pooled: Tensor, action: Tensor, members: Tensor | None = None) -> Tensor:
        """Values of actions.

        Args:
            pooled: From `pooled`, `[B, d + s]`.
            action: Normalised actions as executed, `[B, a]`.
            members: Which critics, `[K]`; all when left out.

        Returns:
            Q of each critic, `[K, B]`.
        """

        def chosen(parameter: Tensor) -> Tensor:
            return parameter if members is None else parameter[members]

        count = self.members if members is None else len(members)
        hidden = torch.cat([pooled, action], dim=-1).expand(count, -1, -1)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            hidden = torch.baddbmm(chosen(bias), hidden, chosen(weight))
            # RLPD: the normalisation bounds what critics make of actions that nobody tried.
            hidden = F.relu(F.layer_norm(hidden, hidden.shape[-1:]))
        return torch.baddbmm(chosen(self.last_bias), hidden, chosen(self.last))[..., 0]

    def forward(self, latent: Latent, action: Tensor, members: Tensor | None = None) -> Tensor:
        """Q of latents `[B, ...]` and actions `[B, a]`, `[K, B]`."""
        return self.value(self.pooled(latent), action, members)


def _linear(members: int, inputs: int, outputs: int) -> nn.Parameter:
    """Weights `[members, inputs, outputs]`, started as in `nn.Linear`."""
    bound = inputs**-0.5
    return nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
