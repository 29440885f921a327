"""Decoded episodes on disk, so that a bag is decoded once and memory stays bounded."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import zipfile
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from irevla_policy.durable import put_in_place
from irevla_policy.recording.episode import EpisodeInfo
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.settings import to_dict
from irevla_trainer.data.frames import FrameFile
from irevla_trainer.data.reader import Episode
from irevla_trainer.data.report import BagReport

# Changes whenever the same bag would be decoded to something else.
_VERSION = 1


class EpisodeCache:
    """A folder with one subfolder for each decoded bag.

    Args:
        folder: The folder; made when missing. It can be deleted at any time when nobody reads from it.
        profile: The robot; another one, or other settings of it, decode anew.
        lasting: Whether it is for later processes too; then it outlives a power cut.
    """

    def __init__(self, folder: Path, profile: RobotProfile, lasting: bool = True) -> None:
        self.folder, self._lasting = folder, lasting
        folder.mkdir(parents=True, exist_ok=True)
        settings = {key: value for key, value in to_dict(profile).items() if key != "file"}
        self._robot = json.dumps([_VERSION, settings, hashlib.sha256(profile.urdf_path.read_bytes()).hexdigest()])

    def get(self, bag: Path) -> tuple[Episode, BagReport] | None:
        """The decoded bag; None when it has to be decoded (anew)."""
        place = self._place(bag)
        try:
            values = json.loads((place / "episode.json").read_text())
            with np.load(place / "arrays.npz", allow_pickle=False) as stored:
                arrays = dict(stored)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return None
        images = {name: FrameFile(place / file, tuple(shape)) for name, (file, shape) in values["images"].items()}
        if not all(frames.is_whole for frames in images.values()):
            return None
        report = BagReport(**(values["report"] | {"dropped": Counter(values["report"]["dropped"])}))
        episode = Episode(
            info=EpisodeInfo(**values["info"]),
            images=cast("dict[str, npt.NDArray[np.uint8]]", images),
            instructions=list(values["instructions"]),
            state=arrays["state"],
            action=arrays["action"],
            stamps=arrays["stamps"],
        )
        return episode, report

    def put(self, bag: Path, episode: Episode, report: BagReport) -> Episode:
        """Store a decoded bag; returns the episode with its images on disk.

        Raises:
            OSError: The disk is full; nothing is stored.
        """
        place = self._place(bag)
        temporary = Path(tempfile.mkdtemp(dir=self.folder, prefix=".partial_"))
        try:
            images: dict[str, tuple[str, list[int]]] = {}
            for number, (name, frames) in enumerate(episode.images.items()):
                written = FrameFile.write(temporary / f"{number}.frames", np.asarray(frames))
                images[name] = (written.path.name, list(written.shape))
            np.savez(temporary / "arrays.npz", state=episode.state, action=episode.action, stamps=episode.stamps)
            values: dict[str, Any] = {
                "info": asdict(episode.info),
                "instructions": episode.instructions,
                "images": images,
                "report": report.to_json(),
            }
            (temporary / "episode.json").write_text(json.dumps(values))
            if place.exists():
                shutil.rmtree(place)
            if self._lasting:
                put_in_place(temporary, place)
            else:
                temporary.replace(place)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        on_disk = {name: FrameFile(place / file, tuple(shape)) for name, (file, shape) in images.items()}  # type: ignore[arg-type]
        return replace(episode, images=cast("dict[str, npt.NDArray[np.uint8]]", on_disk))

    def _place(self, bag: Path) -> Path:
        """The bag's subfolder: its name follows from the bag's files, their sizes and times, and the robot."""
        files = [bag] if bag.is_file() else sorted(path for path in bag.iterdir() if path.is_file())
        parts = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
        key = json.dumps([str(bag.absolute()), parts, self._robot])
        return self.folder / hashlib.sha256(key.encode()).hexdigest()[:24]
