"""D_e: the experts' demonstrations, from bags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from irevla_policy.recording.episode import EpisodeInfo
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.settings import SettingsError
from irevla_trainer.data.dataset import Dataset, Wanted, load_dataset
from irevla_trainer.evaluate import EvaluationTask


def load_experts(
    bags: Sequence[str],
    tasks: Sequence[str],
    profile: RobotProfile,
    cache: Path,
    progress: Callable[[int, int, Any], None] = lambda done, total, report: None,
) -> Dataset:
    """Read the demonstrations of the expert tasks.

    Args:
        bags: Folders with bags.
        tasks: The expert tasks, TASK or TASK:VARIATION.
        profile: The robot.
        cache: Folder for decoded episodes.
        progress: Called after each bag with the number done, the number of all, and its report.

    Raises:
        SettingsError: No folder is named, or an expert task has no demonstration in any of them.
        BagError: A folder does not exist or holds no bag.
        DatasetError: No bag can be used.
    """
    if not bags:
        raise SettingsError("bags: expected at least one folder with demonstrations of the expert tasks")
    wanted = _Demonstrations(tasks=tasks, sources=("expert", "human"))
    dataset = load_dataset([Path(folder) for folder in bags], profile, wanted, cache=cache, progress=progress)
    found = Counter(_name(episode.info) for episode in dataset.episodes)
    missing = [task for task in tasks if not found[task]]
    if missing:
        raise SettingsError(
            f"bags: no demonstration of the expert task{'s' if len(missing) > 1 else ''} {', '.join(missing)} in "
            f"{', '.join(bags)}; found {', '.join(f'{task} ({count})' for task, count in sorted(found.items()))}"
        )
    return dataset


@dataclass(frozen=True)
class _Demonstrations(Wanted):
    """Episodes of tasks that may have a variation: those of another one are another task."""

    def leave_out(self, info: EpisodeInfo) -> str:
        return super().leave_out(replace(info, task=_name(info)))


def _name(info: EpisodeInfo) -> str:
    return str(EvaluationTask(info.task, info.variation))
