"""D_RL on disk: successful episodes with their images, in the order in which they were collected."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from irevla_policy.durable import put_in_place
from irevla_trainer.data.frames import FrameFile
from irevla_trainer.rl.rollout import Trajectory

_ARRAYS = "arrays.npz"
_ARRAY_NAMES = ("state", "action", "noise", "intervened")


@dataclass(frozen=True)
class Success:
    """A stored episode, as `learn.decisions.EpisodeArrays`; its images are read from the disk frame by frame.

    Attributes:
        images: Camera name to RGB images, uint8 `[T, H, W, 3]`.
        instructions: What to do at each step, T texts.
        state: Raw proprioceptive states `[T, s]`.
        action: Raw actions to imitate `[T, a]`; with noise they can lie beyond [-1, 1].
        noise: What exploration added to the intended actions within the limits of actions, raw `[T, a]`.
        intervened: Which of the actions are a person's, `[T]`; they have no noise.
        task: TASK or TASK:VARIATION.
        seed: Of the world.
    """

    images: dict[str, npt.NDArray[np.uint8]]
    instructions: list[str]
    state: npt.NDArray[np.float32]
    action: npt.NDArray[np.float32]
    noise: npt.NDArray[np.float32]
    intervened: npt.NDArray[np.bool_]
    task: str
    seed: int


class Replay:
    """A folder of successful episodes of one task, in batches; the oldest make room for the newest.

    Args:
        folder: The folder; made when missing.
        capacity: Episodes to keep.
        imitate: Which actions to store: 'executed', else those that were intended.
    """

    def __init__(self, folder: Path, capacity: int, imitate: str) -> None:
        self.folder, self.capacity, self.imitate = folder, capacity, imitate
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, batch: int, trajectories: Sequence[Trajectory]) -> None:
        """Store the successes of one iteration; a crash leaves none of them or all.

        Raises:
            OSError: The disk is full; nothing of the batch is stored.
        """
        partial = self.folder / f".{batch:06d}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        target = self.folder / f"{batch:06d}"
        shutil.rmtree(target, ignore_errors=True)
        partial.mkdir()
        try:
            for number, trajectory in enumerate(trajectories):
                self._write(partial / f"{number:05d}", trajectory)
            put_in_place(partial, target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self._make_room()

    def forget(self, first: int) -> None:
        """Remove batches from `first` on: those of iterations that will be repeated."""
        for path in self._batches():
            if int(path.name) >= first:
                shutil.rmtree(path)

    def episodes(self) -> list[Success]:
        """The newest episodes up to the capacity, oldest first."""
        return [self._read(folder) for folder in self._folders()[-self.capacity :]]

    def relabel(self, act: Callable[[Success], npt.NDArray[np.float32]], noisy: bool = False) -> None:
        """Replace the actions of all episodes, those of a person left out; the same again after a crash.

        Args:
            act: An episode to raw actions `[T, a]`.
            noisy: Whether the noise of the episode is added to them. Where a person intervened it is not what led to
                success.

        Raises:
            OSError: The disk is full; every episode has its old actions or its new ones.
        """
        for folder in self._folders():
            episode = self._read(folder)
            partial = folder / f".{_ARRAYS}"
            # A person stepped in because the policy was wrong there, and perhaps still is.
            wanted = act(episode)
            if noisy and not episode.intervened.any():
                wanted = wanted + episode.noise
            action = np.where(episode.intervened[:, None], episode.action, wanted)
            with partial.open("wb") as file:
                np.savez(file, **{name: getattr(episode, name) for name in _ARRAY_NAMES} | {"action": action})
            put_in_place(partial, folder / _ARRAYS)

    def _folders(self) -> list[Path]:
        return [episode for batch in self._batches() for episode in sorted(batch.iterdir())]

    def _write(self, folder: Path, trajectory: Trajectory) -> None:
        folder.mkdir()
        shapes = {}
        for camera, images in trajectory.images.items():
            shapes[camera] = FrameFile.write(folder / f"{camera}.frames", images).shape
        arrays: dict[str, Any] = {
            "state": trajectory.state,
            "action": trajectory.executed if self.imitate == "executed" else trajectory.intended,
            "noise": trajectory.executed - trajectory.intended,
            "intervened": trajectory.intervened,
        }
        np.savez(folder / _ARRAYS, **arrays)
        request = trajectory.request
        values: dict[str, Any] = {
            "task": request.task + (f":{request.variation}" if request.variation else ""),
            "seed": request.seed,
            "instruction": trajectory.instructions[0],
            "images": shapes,
        }
        (folder / "episode.json").write_text(json.dumps(values))

    def _read(self, folder: Path) -> Success:
        values = json.loads((folder / "episode.json").read_text())
        with np.load(folder / _ARRAYS, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in _ARRAY_NAMES if name in arrays.files}
        # An episode of a version that did not store it: its run does not ask for it.
        found.setdefault("noise", np.zeros_like(found["action"]))
        frames = {name: FrameFile(folder / f"{name}.frames", tuple(shape)) for name, shape in values["images"].items()}
        return Success(
            images=cast("dict[str, npt.NDArray[np.uint8]]", frames),
            instructions=[values["instruction"]] * len(found["action"]),
            **found,
            task=values["task"],
            seed=int(values["seed"]),
        )

    def _batches(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.name.isdigit())

    def _make_room(self) -> None:
        """Remove the oldest batches that the newest episodes can do without."""
        kept = 0
        for batch in reversed(self._batches()):
            if kept >= self.capacity:
                shutil.rmtree(batch)
            else:
                kept += sum(1 for _ in batch.iterdir())
