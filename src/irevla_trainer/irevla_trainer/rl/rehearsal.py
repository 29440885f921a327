"""Decisions of demonstrations and of earlier successes, imitated beside what is learnt online.

A head that learns one task drifts where that task does not look, and other tasks are forgotten. With the backbone
frozen their latents are stored as a rollout's are, so that a batch of them costs no more than one of the rollout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from irevla_policy.model.policy import Latent, VLAPolicy
from irevla_trainer.learn.decisions import Decisions
from irevla_trainer.rl.latents import AT_A_TIME, ImageStore, LatentStore, encode
from irevla_trainer.rl.worlds import Seen


@dataclass(frozen=True)
class Rehearsal:
    """What to imitate.

    Attributes:
        observations: Holds what was seen.
        action: Normalised actions `[N, a]`.
    """

    observations: LatentStore | ImageStore
    action: Tensor

    def batch(self, count: int, random: np.random.Generator) -> tuple[Latent, Tensor]:
        """Latents `[B, ...]` and actions `[B, a]`, drawn with replacement."""
        index = random.integers(len(self.action), size=count)
        return self.observations.latent(index), self.action[torch.from_numpy(index)]


@torch.no_grad()
def rehearse(policy: VLAPolicy, decisions: Decisions, store: LatentStore | ImageStore) -> Rehearsal:
    """Put decisions into an empty store.

    Args:
        policy: Encodes; its normaliser is that of the actions.
        decisions: One action each.
        store: With room for all of them.
    """
    policy.eval()
    actions = []
    for first in range(0, len(decisions), AT_A_TIME):
        batch = decisions.batch(np.arange(first, min(first + AT_A_TIME, len(decisions))))
        if isinstance(store, ImageStore):
            places = list(range(len(batch.instructions)))
            store.add(Seen(places, places, batch.images, batch.instructions, batch.state))
        else:
            store.add(encode(policy, batch.images, batch.instructions, batch.state))
        actions.append(policy.normaliser.normalise_action(batch.action[:, 0]))
    return Rehearsal(store, torch.from_numpy(np.concatenate(actions)).to(policy.device))
