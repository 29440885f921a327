"""Episodes as batches of decisions: what every learner that imitates draws from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from irevla_policy.model.normalisation import Normaliser
from irevla_policy.model.processor import ModelInputs, Processor


class EpisodeArrays(Protocol):
    """One episode, decoded; arrays may be memory-mapped."""

    @property
    def images(self) -> Mapping[str, npt.NDArray[np.uint8]]:
        """Camera name to RGB images, uint8 `[T, H, W, 3]`."""

    @property
    def instructions(self) -> Sequence[str]:
        """What to do at each step, T texts."""

    @property
    def state(self) -> npt.NDArray[np.float32]:
        """Raw proprioceptive states, `[T, s]`."""

    @property
    def action(self) -> npt.NDArray[np.float32]:
        """Raw actions to learn, `[T, a]`: those that were executed, or what takes their place in D_RL."""


@dataclass(frozen=True)
class Batch:
    """B decisions.

    Attributes:
        images: Camera name to RGB images, uint8 `[B, H, W, 3]`.
        instructions: B texts.
        state: Raw proprioceptive states, `[B, s]`.
        action: Raw actions of this and the next steps, `[B, chunk, a]`.
        mask: True where the episode had a step, `[B, chunk]`.
    """

    images: dict[str, npt.NDArray[np.uint8]]
    instructions: list[str]
    state: npt.NDArray[np.float32]
    action: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]


class Decisions:
    """Random access to the decisions of many episodes."""

    def __init__(self, episodes: Sequence[EpisodeArrays], cameras: Sequence[str], chunk: int = 1) -> None:
        """Args: cameras: Which images to take. chunk: Actions per decision."""
        self.episodes = list(episodes)
        self.cameras = tuple(cameras)
        self.chunk = chunk
        lengths = [len(episode.action) for episode in self.episodes]
        self._episode = np.repeat(np.arange(len(lengths)), lengths)
        self._step = np.concatenate([np.arange(length) for length in lengths] or [np.zeros(0, int)])

    def __len__(self) -> int:
        return len(self._episode)

    @property
    def epoch_length(self) -> int:
        """Decisions that one pass over the data draws."""
        return len(self)

    def order(self, random: np.random.Generator) -> npt.NDArray[np.int64]:
        """The decisions of one pass over the data, in random order, `[epoch_length]`."""
        return random.permutation(len(self))

    def batch(self, indices: npt.NDArray[np.int64]) -> Batch:
        """The decisions of some indices in [0, len)."""
        episodes = [self.episodes[index] for index in self._episode[indices]]
        steps = self._step[indices]
        pairs = list(zip(episodes, steps, strict=True))
        action = np.zeros((len(pairs), self.chunk, episodes[0].action.shape[1]), np.float32)
        mask = np.zeros((len(pairs), self.chunk), bool)
        for row, (episode, step) in enumerate(pairs):
            following = episode.action[step : step + self.chunk]
            action[row, : len(following)] = following
            mask[row, : len(following)] = True
        images = {
            camera: np.stack([episode.images[camera][step] for episode, step in pairs]) for camera in self.cameras
        }
        return Batch(
            images=images,
            instructions=[episode.instructions[step] for episode, step in pairs],
            state=np.stack([episode.state[step] for episode, step in pairs]),
            action=action,
            mask=mask,
        )

    def fit_normaliser(self) -> Normaliser:
        """Statistics of all states and actions.

        Raises:
            ValueError: There are no decisions, or values that are not finite.
        """
        if not len(self):
            raise ValueError("no decisions to learn from")
        return Normaliser.fit(
            np.concatenate([episode.state for episode in self.episodes]),
            np.concatenate([episode.action for episode in self.episodes]),
        )

    def fingerprint(self) -> str:
        """A short text that changes with the data; guards against resuming on other data."""
        total = sum(
            float(np.float64(episode.action).sum() + np.float64(episode.state).sum()) for episode in self.episodes
        )
        return f"{len(self.episodes)} episodes, {len(self)} decisions, sum {total:.6f}"


def split(episodes: Sequence[EpisodeArrays], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Split episodes into training and validation, whole episodes only and some of every instruction.

    Args:
        episodes: All of them.
        fraction: Share for validation in [0, 1); what rounds to 0 episodes of an instruction leaves none of it.
        seed: Of the draw.

    Returns:
        Indices for training and for validation.
    """
    groups: dict[str, list[int]] = {}
    for index, episode in enumerate(episodes):
        groups.setdefault(episode.instructions[0] if len(episode.instructions) else "", []).append(index)
    random = np.random.default_rng([seed, 0x5B117])
    held: list[int] = []
    for name in sorted(groups):
        members = random.permutation(groups[name])
        held.extend(int(index) for index in members[: round(fraction * len(members))])
    chosen = set(held)
    return [index for index in range(len(episodes)) if index not in chosen], sorted(chosen)


def random_shift(images: npt.NDArray[np.uint8], pixels: int, random: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Shift every image by up to `pixels` in both directions, edges repeated.

    Args:
        images: `[B, H, W, 3]`.
        pixels: Largest shift.
        random: Of the draw.
    """
    if pixels == 0:
        return images
    count, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)), mode="edge")
    offsets = random.integers(0, 2 * pixels + 1, (count, 2))
    return np.stack(
        [padded[index, top : top + height, left : left + width] for index, (top, left) in enumerate(offsets)]
    )


_GREY = np.ones((3, 3), dtype=np.float32) / 3
"""Projection of colours on the grey axis."""

_TURN = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=np.float32) / np.sqrt(3, dtype=np.float32)
"""Cross product with the grey axis: turns hue by a right angle."""


def random_colour(images: npt.NDArray[np.uint8], strength: float, random: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Change the colours of every image at random: hue, saturation, contrast and brightness.

    With u uniform in [-strength, strength], drawn for every change and image: colours turn around the grey axis by
    180 degrees x u, their distance from it is multiplied by 1 + u, that from middle grey by 1 + u / 2, and u / 4 of the
    range is added.

    Args:
        images: `[B, H, W, 3]`.
        strength: In [0, 1]; 0 changes nothing, 1 makes any hue of any other and at times grey.
        random: Of the draw.
    """
    if strength == 0:
        return images
    draws = random.uniform(-strength, strength, (4, len(images), 1, 1)).astype(np.float32)
    turn, saturation, contrast, brightness = draws
    angle = np.pi * turn
    # Rodrigues' rotation about the grey axis: the part along it stays, the part across it turns.
    hue = np.cos(angle) * (np.eye(3, dtype=np.float32) - _GREY) + np.sin(angle) * _TURN
    change = (1 + contrast / 2) * (_GREY + (1 + saturation) * hue)
    middle = np.float32(127.5)
    pixels = images.reshape(len(images), -1, 3).astype(np.float32) - middle
    changed = pixels @ change.transpose(0, 2, 1) + middle + 255 * brightness / 4
    return np.clip(np.rint(changed, out=changed), 0, 255, out=changed).astype(np.uint8).reshape(images.shape)


@dataclass(frozen=True)
class TrainingBatch:
    """A batch ready for the model.

    Attributes:
        inputs: Of the model.
        target: Normalised actions `[B, chunk, a]`.
        mask: True where there is a target, `[B, chunk]`.
    """

    inputs: ModelInputs
    target: torch.Tensor
    mask: torch.Tensor


def prepare(batch: Batch, processor: Processor) -> TrainingBatch:
    """Run the chain of transforms that serving uses on a batch of data."""
    return TrainingBatch(
        processor(batch.images, batch.instructions, batch.state),
        torch.from_numpy(processor.normaliser.normalise_action(batch.action)),
        torch.from_numpy(batch.mask),
    )
