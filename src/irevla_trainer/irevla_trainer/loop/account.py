"""What the folder of a run says about it, finished or not, from its files alone."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from irevla_policy.errors import UserError
from irevla_trainer.loop.settings import order_of_tasks, title_of_visit

_STAGE = re.compile(r"(?P<number>\d+)-stage(?P<stage>[012])(-(?P<task>.+))?")
_VALIDATION = "-validation"
_TEST = "99-test"


class AccountError(UserError, ValueError):
    """The folder is not one of a run."""


@dataclass(frozen=True)
class Stage:
    """One stage of the loop, done or not.

    Attributes:
        name: Of its folder in `steps`.
        stage: 0, 1 or 2.
        task: TASK or TASK:VARIATION that stages 1 and 2 are about; empty for stage 0.
        title: The task, told from its visits before when it comes again.
        values: What `step.json` holds; empty while the stage is not done.
        metrics: Lines of `metrics.jsonl`.
        validation: Category to its success after the stage; empty while it is not evaluated.
        decisions: In the environment, by reinforcement learning, from the start of the run to the end of the stage.
    """

    name: str
    stage: int
    task: str
    title: str
    values: dict[str, Any]
    metrics: list[dict[str, float]]
    validation: dict[str, Any]
    decisions: int

    def __str__(self) -> str:
        return f"stage {self.stage}" + (f", {self.title}" if self.title else "")


@dataclass(frozen=True)
class Account:
    """A run.

    Attributes:
        folder: Its folder.
        settings: Plain values of its `TrainFile`.
        stages: Those that were begun, in their order.
        planned: How many stages the settings ask for.
        test: What the test's `step.json` holds; empty before it.
        result: What `result.json` holds; empty while the run is not finished.
        seconds: Wall time of all steps that are done, evaluations included.
    """

    folder: Path
    settings: dict[str, Any]
    stages: list[Stage]
    planned: int
    test: dict[str, Any]
    result: dict[str, Any]
    seconds: float

    @property
    def decisions(self) -> int:
        """Decisions in the environment by reinforcement learning."""
        return self.stages[-1].decisions if self.stages else 0

    def stage(self, name: str) -> Stage | None:
        """A stage by the name of its folder."""
        return next((stage for stage in self.stages if stage.name == name), None)


def read_account(folder: Path) -> Account:
    """Read what there is.

    Args:
        folder: Of the run, which may be under way or interrupted.

    Raises:
        AccountError: There is no run in the folder.
    """
    config = folder / "config.yaml"
    if not config.is_file():
        raise AccountError(f"{folder}: no run here, expected a folder of irevla train with {config.name} in it")
    settings = yaml.safe_load(config.read_text())
    names = sorted(path.name for path in (folder / "steps").glob("*/"))
    stages: list[Stage] = []
    decisions = 0
    for name in names:
        if name.endswith(_VALIDATION) or not _STAGE.fullmatch(name):
            continue
        stage = _stage(folder / "steps" / name, settings, decisions)
        decisions = stage.decisions
        stages.append(stage)
    return Account(
        folder=folder,
        settings=settings,
        stages=stages,
        planned=_planned(settings),
        test=_values(folder / "steps" / _TEST / "step.json"),
        result=_values(folder / "result.json"),
        seconds=sum(_values(folder / "steps" / name / "step.json").get("seconds", 0.0) for name in names),
    )


def _stage(folder: Path, settings: dict[str, Any], before: int) -> Stage:
    match = _STAGE.fullmatch(folder.name)
    assert match is not None
    number, stage = int(match["number"]), int(match["stage"])
    tasks = _learnt_tasks(settings)
    values, metrics = _values(folder / "step.json"), _lines(folder / "metrics.jsonl")
    spent = 0
    if stage == 1:
        spent = int(values.get("decisions", metrics[-1].get("decisions", 0) if metrics else 0))
    return Stage(
        name=folder.name,
        stage=stage,
        # The folder's name has a hyphen where the task has a colon.
        task=tasks[number - 1] if number and tasks else "",
        title=title_of_visit(tasks, number) if number and tasks else "",
        values=values,
        metrics=metrics,
        validation=_values(folder.with_name(folder.name + _VALIDATION) / "step.json").get("categories", {}),
        decisions=before + spent,
    )


def _planned(settings: dict[str, Any]) -> int:
    tasks = _learnt_tasks(settings)
    if not tasks:
        return 2 if settings["init"] and settings["stage2"]["enabled"] else 1
    return 1 + len(tasks) * (2 if settings["stage2"]["enabled"] else 1)


def _learnt_tasks(settings: dict[str, Any]) -> tuple[str, ...]:
    if not settings["stage1"]["enabled"]:
        return ()
    # A run from before one of these settings went through its tasks once.
    return order_of_tasks(settings["tasks"]["rl"], settings.get("visits", 1), settings.get("rounds", 1))


def _values(path: Path) -> dict[str, Any]:
    """A JSON object; empty when there is none, or half of one."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _lines(path: Path) -> list[dict[str, float]]:
    """JSON objects line by line, up to the first that was not written to its end."""
    found: list[dict[str, float]] = []
    if not path.is_file():
        return found
    for line in path.read_text().splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            break
        if isinstance(values, dict):
            found.append(values)
    return found
