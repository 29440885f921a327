"""Stored observations: latents of a frozen backbone, or images for one that learns."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from irevla_policy.errors import RunError
from irevla_policy.model.policy import Latent, VLAPolicy
from irevla_trainer.rl.settings import LatentSettings
from irevla_trainer.rl.worlds import Seen

Indices = npt.NDArray[np.int64]

AT_A_TIME = 256
"""Decisions whose images pass the backbone together where many are encoded."""


class LatentStore:
    """Latents in a compact number type; the oldest make room once the capacity is reached.

    A latent of m tokens takes 2 m d bytes at half precision. Capacity bounds the memory, of which only what was used is
    taken, or the file in `folder`, whose room is taken at the start.

    Args:
        capacity: Decisions to keep.
        dtype: Number type: float16, bfloat16 or float32.
        folder: Keep the hidden states in a file there instead of in memory.
        device: Where latents are handed out.
    """

    def __init__(
        self,
        capacity: int,
        dtype: torch.dtype = torch.float16,
        folder: Path | None = None,
        device: torch.device | None = None,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"capacity: expected at least 1, found {capacity}")
        self.capacity = capacity
        self.dtype = dtype
        self.device = device or torch.device("cpu")
        self._folder = folder
        self._hidden: Tensor | None = None
        self._file: np.memmap | None = None
        self._path = self._saved_path = Path()
        self._mask = torch.zeros(0)
        self._state = torch.zeros(0)
        self._added = 0

    def __len__(self) -> int:
        return min(self._added, self.capacity)

    @property
    def bytes(self) -> int:
        """Memory, or disk space, of the hidden states once the store is full."""
        return 0 if self._hidden is None else self._hidden.numel() * self._hidden.element_size()

    def rounded(self, latent: Latent) -> Latent:
        """A latent as it will come out of the store, so that a policy acts on what it later learns from."""
        return Latent(latent.hidden.to(self.dtype).float(), latent.mask, latent.state)

    def add(self, latent: Latent) -> Indices:
        """Add B latents; returns their indices `[B]`."""
        count, tokens, width = latent.hidden.shape
        if self._hidden is None or self._hidden.shape[1] < tokens:
            self._widen(tokens, width, latent.state.shape[1])
        assert self._hidden is not None
        indices = (self._added + np.arange(count)) % self.capacity
        rows = torch.from_numpy(indices)
        self._hidden[rows, :tokens] = latent.hidden.detach().to(self._hidden.device, self.dtype)
        self._mask[rows] = False
        self._mask[rows, :tokens] = latent.mask.cpu()
        self._state[rows] = latent.state.detach().cpu()
        self._added += count
        return indices

    def latent(self, indices: Indices) -> Latent:
        """Latents `[B, ...]` by index."""
        assert self._hidden is not None, "nothing was added yet"
        rows = torch.from_numpy(np.asarray(indices, dtype=np.int64))
        hidden = self._hidden.index_select(0, rows).to(self.device).float()
        return Latent(hidden, self._mask[rows].to(self.device), self._state[rows].to(self.device))

    def clear(self) -> None:
        """Forget all of them; the memory is kept for the next."""
        self._added = 0

    def tensors(self) -> dict[str, Tensor]:
        """All that `load` needs; with a folder the hidden states are not part of it but flushed to their file."""
        if self._hidden is None:
            return {}
        count, width = len(self), self._hidden.shape[2]
        tensors = {"added": torch.tensor(self._added), "width": torch.tensor(width)}
        tensors |= {"mask": self._mask[:count], "state": self._state[:count]}
        if self._file is None:
            return tensors | {"hidden": self._hidden[:count]}
        self._file.flush()
        self._saved_path = self._path
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Continue from what `tensors` gave, with the same capacity and folder.

        What was added to the file since then is taken back, provided that the same is added again: a full store has
        overwritten its oldest latents with it.

        Raises:
            RunError: The file is missing, or of another size.
        """
        if not tensors:
            return
        count, tokens = tensors["mask"].shape
        shape = (self.capacity, tokens, int(tensors["width"]))
        self._hidden = self._allocate(shape, keep=True)
        self._saved_path = self._path
        if self._file is None:
            self._hidden[:count] = tensors["hidden"]
        self._mask = torch.zeros(shape[:2], dtype=torch.bool)
        self._state = torch.zeros((self.capacity, tensors["state"].shape[1]))
        self._mask[:count], self._state[:count] = tensors["mask"].cpu(), tensors["state"].cpu()
        self._added = int(tensors["added"])

    def _widen(self, tokens: int, width: int, state: int) -> None:
        """Make room for longer instructions."""
        hidden = self._allocate((self.capacity, tokens, width), keep=False)
        mask = torch.zeros((self.capacity, tokens), dtype=torch.bool)
        if self._hidden is None:
            self._state = torch.zeros((self.capacity, state))
        else:
            count, before = len(self), self._hidden.shape[1]
            hidden[:count, :before] = self._hidden[:count]
            mask[:, :before] = self._mask
        self._hidden, self._mask = hidden, mask
        if self._folder is not None:
            # What was saved last goes on from its file until the next is saved.
            for path in self._folder.glob("hidden-*.bin"):
                if path not in (self._path, self._saved_path):
                    path.unlink()

    def _allocate(self, shape: tuple[int, int, int], keep: bool) -> Tensor:
        """Zeros, or with `keep` what the file holds; pages come into being when they are written."""
        size = int(np.prod(shape)) * self.dtype.itemsize
        if self._folder is None:
            return torch.from_numpy(np.zeros(size, np.uint8)).view(self.dtype).view(shape)
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path = self._folder / f"hidden-{shape[1]}.bin"
        if keep and (not path.is_file() or path.stat().st_size != size):
            found = f"{path.stat().st_size} bytes" if path.is_file() else "no such file"
            raise RunError(f"{path}: expected {size} bytes of stored latents, found {found}; start this run over")
        if not keep:
            # A new file: an older store may still look at the one of this name.
            path.unlink(missing_ok=True)
            # Room for all of it now: a disk that is full later would end the process without a word.
            with path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        self._file = np.memmap(path, np.uint8, "r+", shape=(size,))
        return torch.from_numpy(self._file).view(self.dtype).view(shape)


def new_store(decisions: int, settings: LatentSettings, folder: Path | None, device: torch.device) -> LatentStore:
    """An empty store.

    Args:
        decisions: Bound on their number.
        settings: How latents are stored.
        folder: For the file, where they are stored in one.
        device: Where latents are handed out.
    """
    place = folder if settings.on_disk else None
    return LatentStore(decisions, getattr(torch, settings.dtype), place, device)


class ImageStore:
    """Images, instructions and states of decisions, for a backbone that learns: each use encodes them anew.

    Args:
        policy: Encodes.
    """

    def __init__(self, policy: VLAPolicy) -> None:
        self._policy = policy
        self._images: dict[str, list[npt.NDArray[np.uint8]]] = {}
        self._instructions: list[str] = []
        self._states: list[npt.NDArray[np.float32]] = []

    def __len__(self) -> int:
        return len(self._instructions)

    def add(self, seen: Seen) -> Indices:
        """Add what B episodes show; returns the indices `[B]`."""
        first = len(self)
        for camera, images in seen.images.items():
            self._images.setdefault(camera, []).extend(images)
        self._instructions += seen.instructions
        self._states.extend(seen.state)
        return np.arange(first, len(self))

    def latent(self, indices: Indices) -> Latent:
        """Latents `[B, ...]` by index, encoded now."""
        return encode(
            self._policy,
            {camera: [images[index] for index in indices] for camera, images in self._images.items()},
            [self._instructions[index] for index in indices],
            np.stack([self._states[index] for index in indices]),
        )

    @torch.no_grad()
    def encoded(self) -> LatentStore:
        """All latents under the same indices, encoded now, for as long as the backbone stays as it is."""
        store = LatentStore(len(self), device=self._policy.device)
        for first in range(0, len(self), AT_A_TIME):
            store.add(self.latent(np.arange(first, min(first + AT_A_TIME, len(self)))))
        return store

    def clear(self) -> None:
        """Forget all of them."""
        self._images.clear()
        self._instructions.clear()
        self._states.clear()


def concatenated(latents: Sequence[Latent]) -> Latent:
    """Batches one after the other `[sum B, ...]`, shorter ones padded to the longest."""
    tokens = max(latent.mask.shape[1] for latent in latents)
    padded = [(latent, tokens - latent.mask.shape[1]) for latent in latents]
    return Latent(
        torch.cat([F.pad(latent.hidden, (0, 0, 0, more)) for latent, more in padded]),
        torch.cat([F.pad(latent.mask, (0, more)) for latent, more in padded]),
        torch.cat([latent.state for latent in latents]),
    )


class JoinedStores:
    """Several stores of latents under one index: those of the second follow those of the first, and so on."""

    def __init__(self, stores: Sequence[LatentStore]) -> None:
        self._stores = stores
        self._ends = np.cumsum([len(store) for store in stores])
        self.starts = self._ends - [len(store) for store in stores]

    def latent(self, indices: Indices) -> Latent:
        """Latents `[B, ...]` by index."""
        of = np.searchsorted(self._ends, indices, side="right")
        parts = [self._stores[k].latent(indices[of == k] - self.starts[k]) for k in np.unique(of)]
        found = concatenated(parts)
        back = torch.from_numpy(np.argsort(np.argsort(of, kind="stable"))).to(found.hidden.device)
        return Latent(found.hidden[back], found.mask[back], found.state[back])


def encode(
    policy: VLAPolicy,
    images: dict[str, list[npt.NDArray[np.uint8]]] | dict[str, npt.NDArray[np.uint8]],
    instructions: Sequence[str],
    states: npt.NDArray[np.float32],
) -> Latent:
    """Run the chain of transforms and the backbone on a batch."""
    inputs = policy.processor(images, instructions, states).to(policy.device)
    return policy.latent(inputs)
