"""Heads on the latent of the backbone: token learner, then MLP (iRe-VLA, action head and critic head)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


class TokenLearner(nn.Module):
    """Pools the tokens of the backbone into one vector: h `[B, m, d]` -> h' `[B, d]`.

    Each of `slots` attention maps weighs the tokens and fills its share d / slots of h'. What a map looks for is
    learned and shifted by the proprioceptive state, so that the hand's place can choose what matters.
    """

    def __init__(self, width: int, state_dim: int, slots: int) -> None:
        """Args: width: d. state_dim: s, 0 for none. slots: Number of attention maps; divides d."""
        super().__init__()
        if width % slots:
            raise ValueError(f"learner_slots must divide the backbone's width {width}, found {slots}")
        self.slots = slots
        self.norm = nn.LayerNorm(width)
        self.query = nn.Parameter(torch.randn(slots, width // slots))
        self.state_query = nn.Linear(state_dim, width) if state_dim else None
        self.key = nn.Linear(width, width, bias=False)  # a bias would shift all scores of a map alike
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        if self.state_query is not None:
            nn.init.zeros_(self.state_query.weight)
            nn.init.zeros_(self.state_query.bias)

    def forward(self, hidden: Tensor, mask: Tensor, state: Tensor) -> Tensor:
        """Pool.

        Args:
            hidden: Tokens `[B, m, d]`.
            mask: True where there is a token, `[B, m]`; at least one per row.
            state: Normalised proprioceptive state `[B, s]`.

        Returns:
            `[B, d]`.
        """
        batch, _, width = hidden.shape
        # The affine part of the norm follows after the tokens are summed: of the latent's size nothing needs a gradient
        # then, unless the backbone learns. Its shift would shift all scores of a map alike.
        hidden = nn.functional.layer_norm(hidden, (width,), eps=self.norm.eps)
        query = self.query.expand(batch, -1, -1)
        if self.state_query is not None:
            query = query + self.state_query(state).view(batch, self.slots, -1)
        # Keys and values of every token are never made: (W_k h) q = h (W_k^T q), and the tokens are summed before W_v.
        # That saves the factor m of tokens, and updates of the heads are what stage 1 spends its time on.
        key = self.key.weight.view(self.slots, -1, width)
        value = self.value.weight.view(self.slots, -1, width)
        wanted = torch.einsum("bsc,scd->bsd", query, key) * (self.norm.weight / key.shape[1] ** 0.5)
        weight = (wanted @ hidden.mT).masked_fill(~mask[:, None], float("-inf")).softmax(-1)
        summed = weight @ hidden * self.norm.weight + self.norm.bias
        pooled = torch.einsum("bsd,scd->bsc", summed, value).reshape(batch, width) + self.value.bias
        return self.out(pooled)


class Head(nn.Module):
    """Token learner and MLP: latent `[B, m, d]` and state `[B, s]` -> `[B, out]`."""

    def __init__(self, width: int, state_dim: int, out: int, *, slots: int, hidden: int, layers: int) -> None:
        """Args: width: d. state_dim: s. out: Outputs. slots: Of the token learner. hidden, layers: Of the MLP."""
        super().__init__()
        self.learner = TokenLearner(width, state_dim, slots)
        sizes = [width + state_dim] + [hidden] * layers
        self.norm = nn.LayerNorm(width)
        blocks = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.GELU())]
        last = nn.Linear(sizes[-1], out)
        # Small first outputs: the untrained policy stays near the mean action, the untrained critic near 0.
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(*blocks, last)

    def forward(self, hidden: Tensor, mask: Tensor, state: Tensor) -> Tensor:
        """Args as in `TokenLearner.forward`; returns `[B, out]`."""
        pooled = self.norm(self.learner(hidden, mask, state))
        return self.mlp(torch.cat([pooled, state], dim=-1))


class ActionHead(Head):
    """Latent to a chunk of normalised actions `[B, chunk, action_dim]`."""

    def __init__(
        self, width: int, state_dim: int, action_dim: int, chunk: int, *, slots: int, hidden: int, layers: int
    ) -> None:
        """Args: action_dim, chunk: Shape of the output; the rest as in `Head`."""
        super().__init__(width, state_dim, chunk * action_dim, slots=slots, hidden=hidden, layers=layers)
        self.shape = (chunk, action_dim)

    def forward(self, hidden: Tensor, mask: Tensor, state: Tensor) -> Tensor:
        """Args as in `TokenLearner.forward`; returns `[B, chunk, action_dim]`."""
        return super().forward(hidden, mask, state).view(-1, *self.shape)


class CriticHead(Head):
    """Latent to the value of the observation `[B]`; the same structure as the action head with one output."""

    def __init__(self, width: int, state_dim: int, *, slots: int, hidden: int, layers: int) -> None:
        """Args as in `Head`."""
        super().__init__(width, state_dim, 1, slots=slots, hidden=hidden, layers=layers)

    def forward(self, hidden: Tensor, mask: Tensor, state: Tensor) -> Tensor:
        """Args as in `TokenLearner.forward`; returns `[B]`."""
        return super().forward(hidden, mask, state).squeeze(-1)
