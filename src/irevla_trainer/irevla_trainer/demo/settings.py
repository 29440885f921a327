"""Settings of the demo; presets lie in `config/presets/demo-*.yaml`."""

from __future__ import annotations

from dataclasses import dataclass

from irevla_policy.model.config import ModelSettings
from irevla_policy.paths import config_folder
from irevla_policy.settings import SettingsError, load, setting
from irevla_trainer.evaluate import EvaluationTask
from irevla_trainer.jobs.request import TrainerFile
from irevla_trainer.learn.settings import SftSettings


@dataclass(frozen=True)
class DemoSettings:
    """What the demo records, trains, retrains and measures."""

    tasks: tuple[str, ...] = setting(doc="Tasks that the policy is taught by demonstrations, all at once")
    practice: str = setting(doc="What it then practises, TASK or TASK:VARIATION")
    demonstrations: int = setting(50, "Expert episodes recorded per task", at_least=2)
    noise: float = setting(0.0, "Noise on the expert's displacement, in units of actions", at_least=0.0, at_most=1.0)
    episodes: int = setting(100, "Episodes per evaluated task, before and after the practice", at_least=1)
    recorded: int = setting(20, "Evaluation episodes per task that are recorded", at_least=1)
    filmed: int = setting(3, "Of these, how many are shown: first those that the practice has changed", at_least=1)
    expected_success: float = setting(
        0.6, "Success on the taught tasks below which the demo has failed", at_least=0.0, at_most=1.0
    )
    expected_rise: float = setting(
        0.2, "Rise of success on the practised task below which the demo has failed", at_least=0.0, at_most=1.0
    )
    model: ModelSettings = setting(factory=ModelSettings, doc="The policy")
    sft: SftSettings = setting(factory=SftSettings, doc="How it is taught")
    trainer: TrainerFile = setting(factory=TrainerFile, doc="How it practises")

    def __post_init__(self) -> None:
        if not self.tasks:
            raise SettingsError("tasks: expected at least one")

    @property
    def others(self) -> tuple[str, ...]:
        """The taught tasks that must not suffer from the practice: those of other kinds, or else all."""
        kind = EvaluationTask.parse(self.practice).task
        return tuple(task for task in self.tasks if task != kind) or self.tasks

    @property
    def evaluated(self) -> tuple[str, ...]:
        """The practised task, then the others."""
        return (self.practice, *self.others)


def load_preset(name: str) -> DemoSettings:
    """The settings of a preset.

    Raises:
        SettingsError: No such preset; names the known ones.
    """
    folder = config_folder() / "presets"
    path = folder / f"demo-{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem.removeprefix("demo-") for file in folder.glob("demo-*.yaml")))
        raise SettingsError(f"--preset: expected one of {known}, found {name!r}")
    return load(DemoSettings, path)
