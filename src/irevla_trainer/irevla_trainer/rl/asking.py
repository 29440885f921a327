"""Asking a process that acts for rollouts, through a folder that outlives both.

FOLDER/actor.json            who acts: robot, tasks, how latents are stored
FOLDER/policy/               the policy with its frozen backbone
FOLDER/asks/000012.safetensors    the learnt weights, and in the header which episodes with how much noise
FOLDER/rollouts/000012/003/  what came of its fourth episode

Everything is whole or not there, so that either process may be killed at any moment and started again.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from irevla_policy.durable import put_in_place, write_text
from irevla_policy.model.tensor_file import save_tensors
from irevla_trainer.rl.worlds import EpisodeRequest

_ROLE = "actor.json"


@dataclass(frozen=True)
class Role:
    """Who acts.

    Attributes:
        robot: Robot profile, name or file.
        task_file: Tasks, name or file.
        max_steps: Decisions until an episode is given up; None for the tasks' own numbers.
        dtype: Number type of stored latents.
        device: Where the policy runs.
        threads: Of the arithmetic while acting.
        lock_step: Whether the robot is a simulator that waits for every action.
    """

    robot: str
    task_file: str
    max_steps: int | None
    dtype: str
    device: str = "cpu"
    threads: int = 1
    lock_step: bool = False


@dataclass(frozen=True)
class Noise:
    """Exploration noise; see `rollout.collect`."""

    std: float
    seed: int
    correlation: float


@dataclass(frozen=True)
class Ask:
    """A rollout that is wanted.

    Attributes:
        number: Of the iteration that learns from it.
        requests: Its episodes.
        noise: On the policy's actions.
    """

    number: int
    requests: tuple[EpisodeRequest, ...]
    noise: Noise


class Asking:
    """The folder.

    Args:
        folder: Made when missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.policy = folder / "policy"
        for name in ("asks", "rollouts"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    @property
    def role(self) -> Role:
        """Who acts."""
        return Role(**json.loads((self.folder / _ROLE).read_text()))

    @role.setter
    def role(self, role: Role) -> None:
        write_text(self.folder / _ROLE, json.dumps(asdict(role)) + "\n")

    def ask(self, ask: Ask, weights: Mapping[str, Tensor]) -> None:
        """Ask for a rollout with these weights, unless it was asked for already."""
        path = self._ask_path(ask.number)
        if path.exists():
            return
        partial = path.with_name(f".{path.name}.partial")
        save_tensors(partial, weights, {"ask": json.dumps(asdict(ask))})
        put_in_place(partial, path)

    def asked(self) -> list[int]:
        """Numbers of the rollouts that are asked for."""
        return sorted(int(path.stem) for path in (self.folder / "asks").glob("*.safetensors"))

    def read(self, number: int) -> tuple[Ask, dict[str, Tensor]]:
        """What was asked for, and the weights to act with.

        Raises:
            FileNotFoundError: It is not wanted any more.
        """
        path = self._ask_path(number)
        try:
            with safe_open(path, framework="pt") as file:
                found = json.loads(file.metadata()["ask"])
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except RuntimeError as error:
            # The file is opened twice; what is gone the second time is no FileNotFoundError.
            if path.exists():
                raise
            raise FileNotFoundError(path) from error
        requests = tuple(EpisodeRequest(**request) for request in found["requests"])
        return Ask(found["number"], requests, Noise(**found["noise"])), weights

    def episode(self, number: int, place: int) -> Path:
        """Folder of an episode of a rollout."""
        return self.folder / "rollouts" / f"{number:06d}" / f"{place:03d}"

    def episodes(self) -> set[Path]:
        """Folders of all episodes that are there."""
        found: set[Path] = set()
        for rollout in (self.folder / "rollouts").iterdir():
            # It may have been learnt from meanwhile.
            with contextlib.suppress(FileNotFoundError):
                found.update(path for path in rollout.iterdir() if path.name.isdigit())
        return found

    def missing(self, ask: Ask) -> Sequence[int]:
        """Places of the episodes of a rollout that are not there yet."""
        return [place for place in range(len(ask.requests)) if not self.episode(ask.number, place).is_dir()]

    def forget(self, number: int) -> None:
        """Remove rollouts up to this one: they are learnt from, and the state that says so is on the disk."""
        for known in self.asked():
            if known <= number:
                # The ask first: without it nobody adds to the rollout.
                self._ask_path(known).unlink()
        for path in (self.folder / "rollouts").iterdir():
            if int(path.name) <= number:
                shutil.rmtree(path)

    def _ask_path(self, number: int) -> Path:
        return self.folder / "asks" / f"{number:06d}.safetensors"
