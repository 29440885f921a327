"""Many bags as one data set: which episodes are wanted, and where their images are kept."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from irevla_policy.errors import UserError
from irevla_policy.recording.episode import SOURCES, EpisodeInfo
from irevla_policy.recording.recovery import unfinished
from irevla_policy.recording.storage import find_bags
from irevla_policy.robot.profile import RobotProfile
from irevla_trainer.data.cache import EpisodeCache
from irevla_trainer.data.reader import Episode, EpisodeReader
from irevla_trainer.data.report import BagReport, summary


class DatasetError(UserError, ValueError):
    """No episode can be used; says why."""


@dataclass(frozen=True)
class Wanted:
    """Which episodes to take.

    Attributes:
        success_only: Only those that are labelled as successes.
        tasks: Only these tasks; all when empty.
        sources: Only these sources (`policy`, `expert`, `human`, `mixed`); all when empty.
    """

    success_only: bool = True
    tasks: Collection[str] = ()
    sources: Collection[str] = ()

    def __post_init__(self) -> None:
        for source in self.sources:
            if source not in SOURCES:
                raise DatasetError(f"source must be one of {', '.join(SOURCES)}, found {source!r}")

    def leave_out(self, info: EpisodeInfo) -> str:
        """Why an episode is not wanted; empty when it is."""
        if self.tasks and info.task not in self.tasks:
            return f"task {info.task!r} is not asked for"
        if self.sources and info.source not in self.sources:
            return f"source {info.source!r}"
        if self.success_only and info.success == "unknown":
            return "no success label (/irevla/label_episode or `irevla inspect --label` gives it one)"
        if self.success_only and info.success == "no":
            return "not a success"
        return ""


@dataclass
class Dataset:
    """Decoded episodes, in the order of their bags' paths, and the account of every bag.

    Attributes:
        episodes: The episodes.
        reports: One for each bag, used or not.
    """

    episodes: list[Episode] = field(default_factory=list)
    reports: list[BagReport] = field(default_factory=list)
    _temporary: tempfile.TemporaryDirectory[str] | None = None

    @property
    def decisions(self) -> int:
        """Decisions in all episodes."""
        return sum(len(episode) for episode in self.episodes)

    def close(self) -> None:
        """Remove images that were put on disk for this run only."""
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None


def load_dataset(
    folders: Sequence[str | Path],
    profile: RobotProfile,
    wanted: Wanted | None = None,
    *,
    cache: Path | None = None,
    memory_mb: float = 1024.0,
    progress: Callable[[int, int, BagReport], None] = lambda done, total, report: None,
) -> Dataset:
    """Read all bags of some folders.

    Images stay in memory until they reach `memory_mb`; those of further episodes go to disk and are read frame by
    frame. With a `cache` all go there, and the next call takes from it what has not changed.

    Args:
        folders: Bags or folders of bags, searched with their subfolders.
        profile: The robot.
        wanted: Which episodes to take; successes by default.
        cache: Folder of decoded episodes.
        memory_mb: Most that images may take in memory, MB.
        progress: Called after each bag with the number done, the number of all, and its report.

    Returns:
        The data set; the same bags give the same one.

    Raises:
        BagError: A folder does not exist or holds no bag.
        DatasetError: None of the bags gives a wanted episode; names the reasons.
        OSError: The disk of the cache is full.
    """
    wanted = wanted or Wanted()
    bags = list(dict.fromkeys(bag for folder in folders for bag in find_bags(folder)))
    reader = EpisodeReader(profile)
    dataset = Dataset()
    store = EpisodeCache(cache, profile) if cache is not None else None
    room = memory_mb * 1e6
    for number, bag in enumerate(bags, start=1):
        episode, report = _load(bag, reader, wanted, store if cache is not None else None)
        if episode is not None:
            size = sum(frames.nbytes for frames in episode.images.values()) if cache is None else 0
            if size > room:
                if store is None:
                    dataset._temporary = tempfile.TemporaryDirectory(prefix="irevla_frames_")
                    store = EpisodeCache(Path(dataset._temporary.name), profile, lasting=False)
                episode = store.put(bag, episode, report)
            else:
                room -= size
            dataset.episodes.append(episode)
        dataset.reports.append(report)
        progress(number, len(bags), report)
    for folder in folders:
        for left in unfinished(folder):
            problem = f"unfinished: its recorder was killed; `irevla inspect --recover {left}` saves what is there"
            dataset.reports.append(BagReport(str(left), episode_id=left.name, problem=problem))
    if not dataset.episodes:
        raise DatasetError(_nothing(dataset.reports))
    return dataset


def _load(
    bag: Path, reader: EpisodeReader, wanted: Wanted, cache: EpisodeCache | None
) -> tuple[Episode | None, BagReport]:
    kept = cache.get(bag) if cache is not None else None
    if kept is not None:
        episode, report = kept
        report.left_out = wanted.leave_out(episode.info)
        if report.left_out:
            report.used = 0
            return None, report
        return episode, report
    decoded, report = reader.read(bag, wanted.leave_out)
    if decoded is not None and cache is not None:
        decoded = cache.put(bag, decoded, report)
    return decoded, report


def _nothing(reports: Sequence[BagReport]) -> str:
    reasons = list(dict.fromkeys(report.problem or report.left_out for report in reports))
    shown = "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more reasons" if len(reasons) > 3 else "")
    return f"no episode to learn from: {summary(reports)} ({shown})"
