"""The folder of a run: steps that are done stay done, whatever happens.

RUN/config.yaml          the settings that it was started with
RUN/steps/00-stage0/     one folder a step: its own state while it runs, step.json once it is done
RUN/result.json          written last: a run without it is not finished
RUN/.irevla.lock         held by the process that works on it
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from irevla_policy.durable import put_in_place, write_text
from irevla_policy.errors import UserError
from irevla_policy.lock import LOCK_FILE, FolderLock, LockError
from irevla_policy.settings import SettingsError, to_dict
from irevla_trainer.learn.training_state import STATE_FILE
from irevla_trainer.loop.settings import TrainFile, changed_settings

_CONFIG = "config.yaml"
_SPENT = ".seconds"
"""Time of the attempts at a step that were stopped."""

_WHILE_RUNNING = (STATE_FILE, f".{STATE_FILE}.partial", _SPENT)
"""What a step keeps in its folder only until it is done."""


class RunFolderError(UserError, ValueError):
    """The folder cannot be used for this run; says why and what to do."""


class RunFolder:
    """A run on the disk, locked against other processes until it is closed.

    Args:
        folder: The folder; made when missing.
        settings: Of the run.
        resume: Whether a run in the folder is to be continued.
        patience: How long to wait for another process that works on it, s.

    Raises:
        RunFolderError: The folder holds a run and `resume` is not set, a run with other settings, one that another
            process works on, or something else; or with `resume`, no run.
        OSError: The disk is full.
    """

    def __init__(self, folder: Path, settings: TrainFile, resume: bool = False, patience: float = 0.0) -> None:
        self.folder = folder
        self._settings = settings
        _check_place(folder, resume)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise RunFolderError(f"--out: the folder {folder} cannot be made ({error.strerror})") from error
        try:
            self._lock = FolderLock(folder, patience)
        except LockError as error:
            raise RunFolderError(f"--out: {error}") from error
        try:
            self._new = not (folder / _CONFIG).is_file()
            if self._new:
                write_text(folder / _CONFIG, yaml.safe_dump(to_dict(settings), sort_keys=False))
            else:
                self._check(resume)
        except BaseException:
            self.close()
            raise

    def _check(self, resume: bool) -> None:
        config = self.folder / _CONFIG
        if not resume:
            state = "a finished" if self.result_path.is_file() else "an unfinished"
            advice = "choose another folder" if self.result_path.is_file() else "--resume continues it"
            raise RunFolderError(f"--out: {self.folder} holds {state} run; {advice}")
        try:
            changed = changed_settings(yaml.safe_load(config.read_text()), self._settings, str(config))
        except (yaml.YAMLError, SettingsError, UnicodeDecodeError) as error:
            raise RunFolderError(f"--resume: {config} is damaged ({' '.join(str(error).split())})") from error
        if changed:
            raise RunFolderError(
                f"--resume: {config} has other settings than the file given now: {', '.join(changed)}; "
                "give the file that the run was started with, or start another run"
            )

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes have it; does nothing the second time."""
        self._lock.release()

    def discard(self) -> None:
        """Remove the folder, if this process has begun the run and none of its steps is done."""
        if self._new and not any(self.folder.glob("steps/*/step.json")):
            shutil.rmtree(self.folder)

    @property
    def result_path(self) -> Path:
        """The result, there once the run is finished."""
        return self.folder / "result.json"

    @property
    def result(self) -> dict[str, Any] | None:
        """The result of a finished run, else None."""
        if not self.result_path.is_file():
            return None
        found: dict[str, Any] = json.loads(self.result_path.read_text())
        return found

    def step(self, name: str, work: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """Do a step once.

        Args:
            name: Of the step; names its folder.
            work: Gets the step's folder, which may hold the state of an interrupted attempt, and returns plain values.

        Returns:
            What `work` returned, now or in an earlier run, with `seconds`, the wall time of all its attempts but those
            that were killed.
        """
        folder = self.path(name)
        done = folder / "step.json"
        if not done.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            # What a killed process was about to write is neither old nor new.
            for left in folder.glob(".checkpoint.*"):
                shutil.rmtree(left)
            spent = folder / _SPENT
            before = float(spent.read_text()) if spent.is_file() else 0.0
            started = time.monotonic()
            try:
                values = work(folder)
            except BaseException:
                write_text(spent, f"{before + time.monotonic() - started:.2f}\n")
                raise
            values |= {"seconds": round(before + time.monotonic() - started, 2)}
            write_text(done, json.dumps(values, indent=2) + "\n")
        for left in (folder / kept for kept in _WHILE_RUNNING):
            left.unlink(missing_ok=True)
        stored: dict[str, Any] = json.loads(done.read_text())
        return stored

    def is_done(self, step: str) -> bool:
        """Whether a step is done."""
        return (self.path(step) / "step.json").is_file()

    def path(self, step: str) -> Path:
        """Folder of a step."""
        return self.folder / "steps" / step

    def finish(self, result: dict[str, Any], checkpoint: Path) -> None:
        """Put the selected checkpoint and the result in place: the run is finished."""
        partial, target = self.folder / ".checkpoint.partial", self.folder / "checkpoint"
        for left in (partial, target):
            shutil.rmtree(left, ignore_errors=True)
        shutil.copytree(checkpoint, partial)
        put_in_place(partial, target)
        write_text(self.result_path, json.dumps(result, indent=2) + "\n")


def _check_place(folder: Path, resume: bool) -> None:
    """Refuse what is no place for a run, before anything is written into it."""
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"--out: expected a folder, {folder} is a file")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if resume and not names:
        raise RunFolderError(f"--resume: no run in {folder}; leave --resume out to start one")
    # A process that was killed in its first moments leaves these two.
    if _CONFIG not in names and names - {LOCK_FILE, f".{_CONFIG}.partial"}:
        raise RunFolderError(f"--out: {folder} is a folder with something else than a run in it")
