"""The newest rollouts as one batch: earlier ones weigh as much as the policy of now would still do what they did.

    rho = min(1, pi(a|h) / pi_k(a|h))     of a decision that pi_k made

A latent of a frozen backbone stays what it is, so that learning from a rollout again costs the heads alone. Importance
is truncated as in V-trace (Espeholt et al. 2018); Queeney et al. (2021) show that PPO may learn from several policies'
rollouts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from irevla_policy.model.policy import Latent
from irevla_trainer.rl.latents import JoinedStores, LatentStore
from irevla_trainer.rl.rollout import Decided, Float, Rollout

_ARRAYS = ("index", "next_index", "action", "mean", "reward", "terminated", "ended")


@dataclass(frozen=True)
class Batch(Decided):
    """Decisions of several rollouts; `mean` and `std` are those of the policy as it is now.

    Attributes:
        importance: rho, `[N]`.
    """

    importance: Float


@dataclass(frozen=True)
class _Kept:
    """A rollout that is learnt from again."""

    place: int
    store: LatentStore
    arrays: dict[str, npt.NDArray[np.generic]]


class RecentRollouts:
    """Keeps the newest rollouts of a policy that learns.

    Args:
        number: How many make a batch.
        new_store: An empty store for so many decisions under a name, whose former content is given up.
        mean_of: Means `[B, a]` of the policy as it is now.
    """

    def __init__(
        self, number: int, new_store: Callable[[int, str], LatentStore], mean_of: Callable[[Latent], Tensor]
    ) -> None:
        self._number, self._new_store, self._mean_of = number, new_store, mean_of
        self._kept: list[_Kept] = []
        self._place = 0

    def store(self, decisions: int) -> LatentStore:
        """An empty store for the next rollout."""
        return self._new_store(decisions, f"rollout-{self._place}")

    def join(self, rollout: Rollout, at_a_time: int) -> Batch:
        """A rollout of the policy as it is now, with those before it.

        Args:
            rollout: Made with a store of this.
            at_a_time: Latents that pass the policy together.
        """
        newest = {name: getattr(rollout, name) for name in _ARRAYS}
        if self._number == 1:
            return Batch(
                observations=rollout.observations,
                std=rollout.std,
                importance=np.ones(len(rollout), np.float32),
                **newest,
            )
        assert isinstance(rollout.observations, LatentStore)
        self._kept.append(_Kept(self._place, rollout.observations, newest))
        stores = JoinedStores([kept.store for kept in self._kept])
        parts = [
            kept.arrays | {name: kept.arrays[name] + start for name in ("index", "next_index")}
            for kept, start in zip(self._kept, stores.starts, strict=True)
        ]
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in _ARRAYS}
        earlier = arrays["index"][: -len(rollout)]
        means = [
            self._mean_of(stores.latent(earlier[first : first + at_a_time])).cpu().numpy()
            for first in range(0, len(earlier), at_a_time)
        ]
        now = np.concatenate([*means, rollout.mean])
        batch = Batch(
            observations=stores,
            std=rollout.std,
            importance=truncated_importance(arrays["action"], now, arrays["mean"], rollout.std),
            **arrays | {"mean": now},
        )
        self._kept = self._kept[-(self._number - 1) :]
        self._place = (self._place + 1) % self._number
        return batch

    def tensors(self) -> dict[str, Tensor]:
        """All that `load` needs."""
        tensors = {"place": torch.tensor(self._place)}
        for number, kept in enumerate(self._kept):
            tensors |= {f"{number}/{name}": torch.from_numpy(array) for name, array in kept.arrays.items()}
            tensors |= {f"{number}/store/{name}": tensor for name, tensor in kept.store.tensors().items()}
            tensors[f"{number}/place"] = torch.tensor(kept.place)
            tensors[f"{number}/capacity"] = torch.tensor(kept.store.capacity)
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Continue from what `tensors` gave."""
        self._place, self._kept = int(tensors["place"]), []
        while f"{len(self._kept)}/place" in tensors:
            mine = f"{len(self._kept)}/"
            found = {name.removeprefix(mine): value for name, value in tensors.items() if name.startswith(mine)}
            place = int(found["place"])
            store = self._new_store(int(found["capacity"]), f"rollout-{place}")
            prefix = "store/"
            store.load({k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)})
            self._kept.append(_Kept(place, store, {name: found[name].cpu().numpy() for name in _ARRAYS}))


def truncated_importance(action: Float, mean: Float, old_mean: Float, std: float) -> Float:
    """min(1, pi(a) / pi_k(a)) of Gaussian policies of the same standard deviation.

    Args:
        action: `[N, a]`.
        mean: Of pi, `[N, a]`.
        old_mean: Of pi_k, `[N, a]`.
        std: Of both.

    Returns:
        `[N]`.
    """
    ratio = (np.square(action - old_mean) - np.square(action - mean)).sum(-1) / (2 * std**2)
    return np.exp(np.minimum(ratio, 0.0)).astype(np.float32)
