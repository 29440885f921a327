"""The index of episodes: what every bag in the watched folders is, and what it is good for.

A bag is opened once; later only its files' times and sizes are looked at. One that cannot be read is listed with its
problem. The index can be deleted at any time: the bags and the labels beside them say everything that is in it.

    D_e     finished successes of an expert or a person
    D_RL    finished successes of a policy, alone or with a person's help
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from irevla_policy.durable import write_text
from irevla_policy.errors import UserError
from irevla_policy.recording.episode import EpisodeInfo
from irevla_policy.recording.storage import METADATA_FILE, walk
from irevla_policy.robot.profile import RobotProfile
from irevla_trainer.data.description import describe

_FORMAT = {"format": "irevla episode index", "version": 1}
TEACHERS = ("expert", "human")
"""Sources whose successes are demonstrations."""

_Files = list[list[Any]]


@dataclass(frozen=True)
class IndexedEpisode:
    """One bag.

    Attributes:
        bag: Its folder.
        info: What it says it is, with the newest label; None when it cannot be read.
        problem: Why it cannot be used, in one sentence; empty when it can.
    """

    bag: Path
    info: EpisodeInfo | None
    problem: str = ""

    @property
    def dataset(self) -> str:
        """'D_e', 'D_RL', or empty when it is kept but not imitated."""
        if self.info is None or self.problem or self.info.state != "finished" or self.info.success != "yes":
            return ""
        return "D_e" if self.info.source in TEACHERS else "D_RL"


@dataclass
class Changes:
    """What a look at the folders has found.

    Attributes:
        new: Bags that were not known, or are now something else.
        gone: Bags that are not there any more.
    """

    new: list[IndexedEpisode] = field(default_factory=list)
    gone: list[Path] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.new or self.gone)


class EpisodeIndex:
    """The episodes of some folders, refreshed by one thread.

    Args:
        folders: Folders of bags, searched with their subfolders; one that does not exist yet is empty.
        profile: The robot: bags of another one are problems.
        file: Where the index is kept; made when missing, and anew when it is damaged.
    """

    def __init__(self, folders: Sequence[Path], profile: RobotProfile, file: Path) -> None:
        self.folders = [folder.absolute() for folder in folders]
        self._profile = profile
        self._file = file
        self._known: dict[Path, tuple[_Files, IndexedEpisode]] = {}
        self._complete = False
        self._progress = (0, 0)
        self._lines = 0
        self._whole = False  # whether lines can be added to the file
        self._read()

    @property
    def episodes(self) -> list[IndexedEpisode]:
        """All episodes, in the order of their bags' paths; also for other threads than the one that refreshes."""
        known = self._known
        return [known[bag][1] for bag in sorted(known)]

    @property
    def complete(self) -> bool:
        """Whether the folders have been looked at; until then `episodes` is what the file says. For all threads."""
        return self._complete

    @property
    def progress(self) -> tuple[int, int]:
        """Of the bags that the newest look has found: how many are known, and all. For all threads."""
        return self._progress

    def refresh(self, progress: Callable[[int, int], None] = lambda done, total: None) -> Changes:
        """Look at the folders again.

        Args:
            progress: Called after each bag that had to be opened, with their number done and in all.

        Raises:
            OSError: The index cannot be written.
        """
        found = {bag: files for folder in self.folders for bag, files in _bags(folder)}
        changes = Changes(gone=[bag for bag in self._known if bag not in found])
        known = {bag: entry for bag, entry in self._known.items() if bag in found}
        opened = [bag for bag, files in found.items() if bag not in known or known[bag][0] != files]
        self._progress = len(found) - len(opened), len(found)
        for number, bag in enumerate(sorted(opened), start=1):
            episode, lasting = self._look(bag)
            before = known.get(bag)
            # What may pass without a change of the files is looked at again every time.
            known[bag] = found[bag] if lasting else [], episode
            if lasting or before is None or before[1] != episode:
                changes.new.append(episode)
            self._progress = len(found) - len(opened) + number, len(found)
            progress(number, len(opened))
        # Whole or not at all, for those who look meanwhile.
        self._known = known
        self._complete = True
        if changes:
            self._write(changes)
        return changes

    def _look(self, bag: Path) -> tuple[IndexedEpisode, bool]:
        """What a bag is, and whether it stays so as long as its files do."""
        try:
            info = describe(bag)
        except UserError as error:
            return IndexedEpisode(bag, None, _sentence(error)), True
        except OSError as error:
            return IndexedEpisode(bag, None, _sentence(error)), False
        except Exception as error:
            # Whatever is wrong with one bag, the others are looked at.
            return IndexedEpisode(
                bag, None, f"{bag}: cannot be read ({type(error).__name__}: {_sentence(error)})"
            ), False
        return IndexedEpisode(bag, info, self._foreign(info)), True

    def _foreign(self, info: EpisodeInfo) -> str:
        if info.profile_hash in ("", self._profile.training_hash):
            return ""
        profile = self._profile
        return (
            f"recorded with robot {info.robot!r} (profile hash {info.profile_hash}), expected {profile.name!r} "
            f"({profile.training_hash})"
        )

    # -- the file: a line for every bag, the last one of a bag counts -------------------------------------------------

    def _read(self) -> None:
        try:
            with self._file.open() as file:
                if json.loads(file.readline()) != self._identity():
                    return
                lines = file.readlines()
            # A line that a killed process has not finished is as good as none.
            self._whole = not lines or lines[-1].endswith("\n")
            for values in map(json.loads, lines if self._whole else lines[:-1]):
                bag = Path(values["bag"])
                if values["files"] is None:
                    self._known.pop(bag, None)
                    continue
                info = None if values["info"] is None else EpisodeInfo(**values["info"])
                self._known[bag] = values["files"], IndexedEpisode(bag, info, values["problem"])
            self._lines = len(lines)
        except (OSError, ValueError, KeyError, TypeError):
            self._known.clear()
            self._whole = False

    def _write(self, changes: Changes) -> None:
        lines = [_line(episode.bag, *self._known[episode.bag]) for episode in changes.new]
        lines += [_line(bag, None, IndexedEpisode(bag, None)) for bag in changes.gone]
        self._lines += len(lines)
        if not (self._whole and self._file.is_file()) or self._lines > 2 * len(self._known) + len(lines):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            whole = [_line(bag, *self._known[bag]) for bag in sorted(self._known)]
            write_text(self._file, "".join([json.dumps(self._identity()) + "\n", *whole]))
            self._lines, self._whole = len(whole), True
            return
        with self._file.open("a") as file:
            file.writelines(lines)

    def _identity(self) -> dict[str, Any]:
        """What the lines depend on beside the bags."""
        return _FORMAT | {"robot": self._profile.training_hash}


def _bags(folder: Path) -> Iterator[tuple[Path, _Files]]:
    """Bags in a folder and its subfolders, each with name, time (ns) and size of its files."""
    for place, entries in walk(folder):
        files: _Files = []
        for entry in entries:
            with suppress(OSError):  # removed while we looked
                found = entry.stat()
                files.append([entry.name, found.st_mtime_ns, found.st_size])
        names = [name for name, _, _ in files]
        if METADATA_FILE in names:
            yield place, files
        elif data := [name for name in names if name.endswith((".mcap", ".db3"))]:
            # Unfinished. One that is still growing is no news at every look.
            yield place, [[name, 0, 0] for name in data]


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())


def _line(bag: Path, files: _Files | None, episode: IndexedEpisode) -> str:
    info = None if episode.info is None else asdict(episode.info)
    return json.dumps({"bag": str(bag), "files": files, "info": info, "problem": episode.problem}) + "\n"
