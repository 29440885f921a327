"""A success classifier from labelled episodes: binary cross-entropy on frames, half of every batch showing success.

What an episode's label says is certain only of its end: the last frames of a success show it, and all frames of a
failure do not. Of a success the frames well before its end do not either; those in between are left out. After
Luo et al. 2024 (HIL-SERL), with the latent of the policy's own backbone in place of a pretrained image encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from irevla_policy.errors import UserError
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.model.success import Streak, SuccessClassifier, Verdict
from irevla_policy.settings import setting
from irevla_trainer.data.reader import Episode
from irevla_trainer.learn.decisions import random_colour, random_shift
from irevla_trainer.rl.latents import AT_A_TIME, LatentStore, encode
from irevla_trainer.statistics import Rate


class LabelError(UserError, ValueError):
    """There is nothing to tell success from failure by."""


@dataclass(frozen=True)
class SuccessSettings:
    """Settings of the training of a success classifier."""

    shows: int = setting(2, "Last frames of a success that show it", unit="decisions", at_least=1)
    unclear: int = setting(
        8, "Frames before those that say nothing: nearly there, or there already", unit="decisions", at_least=0
    )
    steps: int = setting(600, "Updates", at_least=1)
    batch_size: int = setting(128, "Frames per update, half of them showing success", at_least=2)
    learning_rate: float = setting(1e-3, "Learning rate of AdamW", above=0.0, at_most=1.0)
    weight_decay: float = setting(0.01, "Weight decay of AdamW", at_least=0.0)
    copies: int = setting(
        4, "How often every frame is seen: once as it is, then with other shifts and colours", at_least=1
    )
    shift: int = setting(2, "Random shift of the copies", unit="px", at_least=0, at_most=64)
    colour: float = setting(0.1, "Random change of the copies' colours", at_least=0.0, at_most=1.0)
    held_out: float = setting(0.25, "Share of the episodes that only measure it", above=0.0, at_most=0.9)
    seed: int = setting(0, "Of weights, order, copies and what is held out", at_least=0)


@dataclass(frozen=True)
class Trial:
    """How a classifier did on episodes that it did not learn from.

    Attributes:
        seen: Successes that it has recognised by their end.
        early: Successes that it has called so before anything could be seen of it.
        false_alarms: Failures that it has called successes.
    """

    seen: Rate
    early: Rate
    false_alarms: Rate


def train_success(
    policy: VLAPolicy, episodes: Sequence[Episode], settings: SuccessSettings, verdict: Verdict
) -> tuple[SuccessClassifier, Trial]:
    """Train a classifier.

    Args:
        policy: Its backbone encodes.
        episodes: Labelled as success or failure, some of either.
        settings: Of the training.
        verdict: When it is to be sure.

    Returns:
        The classifier, and how it does on the episodes that were held out.

    Raises:
        LabelError: There are too few successes or failures to learn from some and measure with others.
    """
    random = np.random.default_rng([settings.seed, 0x5CC])
    learnt, held = _split(episodes, settings.held_out, random)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        head = policy.new_critic()
    classifier = SuccessClassifier(policy, head, verdict)
    frames = _encode(policy, learnt, settings, random)
    optimiser = torch.optim.AdamW(head.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    head.train()
    half = settings.batch_size // 2
    for _ in range(settings.steps):
        index = np.concatenate([random.choice(frames.positive, half), random.choice(frames.negative, half)])
        latent = frames.store.latent(index)
        target = torch.cat([torch.ones(half), torch.zeros(half)]).to(policy.device)
        loss = binary_cross_entropy_with_logits(head(latent.hidden, latent.mask, latent.state), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    head.eval()
    return classifier, measure(classifier, held, settings)


def measure(classifier: SuccessClassifier, episodes: Sequence[Episode], settings: SuccessSettings) -> Trial:
    """Let a classifier watch labelled episodes, some of either label."""
    seen, early, alarms = [], [], []
    for episode in episodes:
        called = _called(classifier, episode)
        if episode.info.success == "yes":
            clear = len(episode) - settings.shows - settings.unclear
            early.append(called is not None and called < clear)
            seen.append(called is not None and called >= clear)
        else:
            alarms.append(called is not None)
    return Trial(*(Rate(sum(found), len(found)) for found in (seen, early, alarms)))


@dataclass(frozen=True)
class _Frames:
    """Encoded frames.

    Attributes:
        store: Their latents.
        positive: Indices of those that show success.
        negative: Indices of those that do not.
    """

    store: LatentStore
    positive: npt.NDArray[np.int64]
    negative: npt.NDArray[np.int64]


def _split(
    episodes: Sequence[Episode], share: float, random: np.random.Generator
) -> tuple[list[Episode], list[Episode]]:
    """To learn from and to measure with, some successes and failures in both."""
    learnt: list[Episode] = []
    held: list[Episode] = []
    for word, name in (("yes", "successes"), ("no", "failures")):
        group = [episode for episode in episodes if episode.info.success == word]
        if len(group) < 2:
            raise LabelError(
                f"{len(group)} episodes are labelled as {name}, expected at least 2: one to learn from, one to measure "
                "with; label more of them (/irevla/label_episode, irevla inspect --label)"
            )
        order = random.permutation(len(group))
        number = min(max(1, round(share * len(group))), len(group) - 1)
        held += [group[index] for index in order[:number]]
        learnt += [group[index] for index in order[number:]]
    return learnt, held


def _shown(episode: Episode, settings: SuccessSettings) -> tuple[list[int], list[int]]:
    """Steps of an episode that show success, and steps that do not."""
    steps = list(range(len(episode)))
    if episode.info.success != "yes":
        return [], steps
    end = max(len(episode) - settings.shows, 0)
    return steps[end:], steps[: max(end - settings.unclear, 0)]


@torch.no_grad()
def _encode(
    policy: VLAPolicy, episodes: Sequence[Episode], settings: SuccessSettings, random: np.random.Generator
) -> _Frames:
    shown = [_shown(episode, settings) for episode in episodes]
    labelled = [
        (episode, step, label)
        for episode, steps in zip(episodes, shown, strict=True)
        for label, some in zip((True, False), steps, strict=True)
        for step in some
    ]
    store = LatentStore(len(labelled) * settings.copies, device=policy.device)
    for copy in range(settings.copies):
        for first in range(0, len(labelled), AT_A_TIME):
            part = labelled[first : first + AT_A_TIME]
            images = {
                camera: np.stack([episode.images[camera][step] for episode, step, _ in part])
                for camera in policy.robot.cameras
            }
            if copy:
                images = {
                    camera: random_colour(random_shift(seen, settings.shift, random), settings.colour, random)
                    for camera, seen in images.items()
                }
            instructions = [episode.instructions[step] for episode, step, _ in part]
            store.add(encode(policy, images, instructions, np.stack([e.state[step] for e, step, _ in part])))
    labels = np.tile([label for _, _, label in labelled], settings.copies)
    return _Frames(store, np.flatnonzero(labels), np.flatnonzero(~labels))


@torch.no_grad()
def _called(classifier: SuccessClassifier, episode: Episode) -> int | None:
    """The step at which an episode is called a success; None when it never is."""
    policy, streak = classifier.policy, Streak(classifier.verdict)
    for first in range(0, len(episode), AT_A_TIME):
        part = slice(first, first + AT_A_TIME)
        images = {camera: np.asarray(episode.images[camera][part]) for camera in policy.robot.cameras}
        latent = encode(policy, images, episode.instructions[part], episode.state[part])
        logits = classifier.head(latent.hidden, latent.mask, latent.state)
        for place, probability in enumerate(logits.sigmoid().tolist()):
            if streak.add(episode.info.episode_id, probability):
                return first + place
    return None
