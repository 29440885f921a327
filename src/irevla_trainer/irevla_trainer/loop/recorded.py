"""What the bags hold: D_e, the demonstrations, and the part of D_RL that earlier policies have left in bags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from irevla_policy.recording.episode import EpisodeInfo
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.settings import SettingsError
from irevla_policy.sim.tasks import TaskFile, load_tasks
from irevla_trainer.data.dataset import Dataset, Wanted, load_dataset
from irevla_trainer.data.index import TEACHERS
from irevla_trainer.data.reader import Episode
from irevla_trainer.evaluate import EvaluationTask
from irevla_trainer.loop.settings import TrainFile


@dataclass
class Recorded:
    """Decoded episodes; `close` it when they are of no more use.

    Attributes:
        experts: D_e.
        successes: Of D_RL what was recorded.
    """

    experts: list[Episode]
    successes: list[Episode]
    dataset: Dataset

    def close(self) -> None:
        """Remove images that were put on disk for this run only."""
        self.dataset.close()


def load_recorded(
    settings: TrainFile,
    profile: RobotProfile,
    cache: Path,
    progress: Callable[[int, int, Any], None] = lambda done, total, report: None,
) -> Recorded:
    """Read the demonstrations of the expert tasks and, where they are wanted, all successes of policies.

    Args:
        settings: Names bags and tasks.
        profile: The robot.
        cache: Folder for decoded episodes.
        progress: Called after each bag with the number done, the number of all, and its report.

    Raises:
        SettingsError: No folder is named, or an expert task has no demonstration in any of them.
        BagError: A folder does not exist or holds no bag.
        DatasetError: No bag can be used.
    """
    bags, tasks = settings.bags, settings.tasks.expert
    if not bags:
        raise SettingsError("bags: expected at least one folder with demonstrations of the expert tasks")
    known = load_tasks(settings.task_file)
    # A task may have been recorded under another of its names.
    names = {task: str(EvaluationTask.parse(task).named_in(known)) for task in tasks}
    wanted = _Recordings(demonstrated=tuple(names.values()), policies=settings.policy_successes, known=known)
    dataset = load_dataset([Path(folder) for folder in bags], profile, wanted, cache=cache, progress=progress)
    experts = [episode for episode in dataset.episodes if episode.info.source in TEACHERS]
    successes = [episode for episode in dataset.episodes if episode.info.source not in TEACHERS]
    found = Counter(_name(episode.info, known) for episode in experts)
    missing = [task for task in tasks if not found[names[task]]]
    if missing:
        raise SettingsError(
            f"bags: no demonstration of the expert task{'s' if len(missing) > 1 else ''} {', '.join(missing)} in "
            f"{', '.join(bags)}; found {', '.join(f'{task} ({count})' for task, count in sorted(found.items()))}"
        )
    return Recorded(experts, successes, dataset)


@dataclass(frozen=True)
class _Recordings(Wanted):
    """Demonstrations of some tasks, whose variations are tasks of their own, and successes of policies on any."""

    demonstrated: tuple[str, ...] = field(default=())
    policies: bool = False
    known: TaskFile = field(default_factory=load_tasks)

    def leave_out(self, info: EpisodeInfo) -> str:
        teacher = info.source in TEACHERS
        if not teacher and not self.policies:
            return f"source {info.source!r}"
        asked = replace(self, tasks=self.demonstrated if teacher else ())
        return Wanted.leave_out(asked, replace(info, task=_name(info, self.known)))


def _name(info: EpisodeInfo, known: TaskFile) -> str:
    return str(EvaluationTask(info.task, info.variation).named_in(known))
