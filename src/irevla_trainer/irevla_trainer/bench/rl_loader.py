"""How much of its time supervised fine-tuning spends on anything but the model.

Samples per second of `learn.sft.train` against a plain loop that has its batches in memory, ready for the model, and
makes the same updates.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.policy import VLAPolicy
from irevla_trainer.bench.rl_domain import Domain
from irevla_trainer.bench.rl_samples import demonstrations
from irevla_trainer.learn.decisions import Decisions, prepare
from irevla_trainer.learn.settings import SftSettings
from irevla_trainer.learn.sft import masked_mse, train

_BATCHES = 20


@dataclass(frozen=True)
class Loaders:
    """Samples per second, round by round.

    Attributes:
        ours: Of `learn.sft.train`.
        plain: Of the plain loop.
    """

    ours: tuple[float, ...]
    plain: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Ours over the plain loop's, in a typical round: neighbours in time share what else the machine does."""
        return float(np.median(np.array(self.ours) / np.array(self.plain)))


def compare_loaders(domain: Domain, steps: int, rounds: int, device: str) -> Loaders:
    """Measure our training and the plain loop in turn.

    Args:
        domain: Whose instructions, images and states the samples have.
        steps: Updates of each in every round.
        rounds: That count; a short one before them does not.
        device: Torch device.
    """
    settings = SftSettings(steps=steps, precision="float32", validation_share=0.0, save_every=3600.0)
    decisions = demonstrations(domain, _BATCHES * settings.batch_size)
    taken: dict[str, list[float]] = {"ours": [], "plain": []}
    turns = [("ours", _ours), ("plain", _plain)]
    for number in range(-1, rounds):
        updates = max(steps // 10, 1) if number < 0 else steps
        # Each goes first in every second round: what grows with time then grows in both.
        turns.reverse()
        for name, work in turns:
            policy = VLAPolicy.create(ModelSettings(), RobotFacts.of(domain.profile)).to(device)
            seconds = work(policy, decisions, updates, settings)
            if number >= 0:
                taken[name].append(settings.batch_size * updates / seconds)
    return Loaders(tuple(taken["ours"]), tuple(taken["plain"]))


def _ours(policy: VLAPolicy, decisions: Decisions, steps: int, settings: SftSettings) -> float:
    settings = SftSettings(**{**vars(settings), "steps": steps})
    with tempfile.TemporaryDirectory(prefix="irevla-rl-") as folder:
        start = time.perf_counter()
        train(policy, decisions, None, settings, Path(folder))
        return time.perf_counter() - start


def _plain(policy: VLAPolicy, decisions: Decisions, steps: int, settings: SftSettings) -> float:
    order = np.random.default_rng(0).permutation(len(decisions)).reshape(_BATCHES, -1)
    batches = [prepare(decisions.batch(indices), policy.processor) for indices in order]
    policy.unfreeze_backbone()
    policy.train()
    weights = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        weights, lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=settings.weight_decay
    )
    start = time.perf_counter()
    for batch in itertools.islice(itertools.cycle(batches), steps):
        loss = masked_mse(policy(batch.inputs).float(), batch.target, batch.mask)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, settings.gradient_clip)
        loss.item()
        optimizer.step()
    return time.perf_counter() - start
