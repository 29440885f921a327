"""Stages 0 and 2: supervised fine-tuning on D_e, and on D_e and D_RL together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from irevla_policy.model.policy import VLAPolicy
from irevla_trainer.learn.decisions import Decisions, EpisodeArrays, split
from irevla_trainer.learn.mixture import Mixture
from irevla_trainer.learn.settings import SftSettings
from irevla_trainer.learn.sft import train
from irevla_trainer.loop.settings import Stage2Settings

Progress = Callable[[int, int, dict[str, float]], None]


def stage_0(
    policy: VLAPolicy, experts: Sequence[EpisodeArrays], settings: SftSettings, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Fine-tune backbone and head in place on D_e, mean squared error on actions.

    Args:
        policy: pi_0.
        experts: D_e.
        settings: Of the training; a share of the episodes is held out to watch the loss.
        folder: Holds the state of an interrupted run, which is continued, and `metrics.jsonl`.
        progress: Called after each update with step, number of steps and the newest figures.

    Returns:
        steps, loss, validation_loss, episodes, decisions.

    Raises:
        TrainingError: The loss is not finite; the folder keeps the state before.
    """
    learnt, held_out = split(experts, settings.validation_share, settings.seed)
    cameras, chunk = policy.robot.cameras, policy.settings.chunk
    training = Decisions([experts[index] for index in learnt], cameras, chunk)
    validation = Decisions([experts[index] for index in held_out], cameras, chunk)
    result = train(policy, training, validation, settings, folder, progress)
    return _account(result, training, len(learnt))


def stage_2(
    policy: VLAPolicy,
    experts: Sequence[EpisodeArrays],
    successes: Sequence[EpisodeArrays],
    settings: Stage2Settings,
    seed: int,
    folder: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Fine-tune backbone and head in place on D_e and D_RL.

    Args:
        policy: pi_2, a copy of pi_1.
        experts: D_e.
        successes: D_RL of all tasks so far.
        settings: Of the stage.
        seed: Of order and augmentation, the same for no two tasks.
        folder: As in stage 0.
        progress: As in stage 0.

    Returns:
        As stage 0; validation_loss is None, because nothing is held out.

    Raises:
        TrainingError: The loss is not finite; the folder keeps the state before.
    """
    mixture = Mixture(experts, successes, policy.robot.cameras, settings.share, policy.settings.chunk)
    result = train(policy, mixture, None, dataclasses.replace(settings.sft, seed=seed), folder, progress)
    return _account(result, mixture, len(experts) + len(successes))


def _account(result: Any, data: Decisions, episodes: int) -> dict[str, Any]:
    values = dataclasses.asdict(result)
    values.pop("seconds")
    return values | {"episodes": episodes, "decisions": len(data)}
