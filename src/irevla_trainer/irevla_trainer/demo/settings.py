"""Settings of the demo; presets lie in `config/presets/demo-*.yaml`."""

from __future__ import annotations

from dataclasses import dataclass

from irevla_policy.model.config import ModelSettings
from irevla_policy.paths import config_folder
from irevla_policy.settings import SettingsError, load, setting
from irevla_trainer.learn.settings import SftSettings


@dataclass(frozen=True)
class DemoSettings:
    """What the demo records, trains and measures."""

    tasks: tuple[str, ...] = setting(doc="Tasks that the policy learns, all at once")
    demonstrations: int = setting(50, "Expert episodes recorded per task", at_least=2)
    noise: float = setting(0.0, "Noise on the expert's displacement, in units of actions", at_least=0.0, at_most=1.0)
    episodes: int = setting(50, "Evaluation episodes per task, before and after", at_least=1)
    curve_points: int = setting(5, "How often success is measured while training, besides at its start", at_least=0)
    curve_episodes: int = setting(10, "Episodes per task of such a measurement", at_least=1)
    filmed: int = setting(3, "Evaluation episodes per task that are recorded and shown", at_least=1)
    expected_success: float = setting(
        0.6, "Success after training below which the demo has failed", at_least=0.0, at_most=1.0
    )
    expected_before: float = setting(
        0.2, "Success before training above which a task shows nothing", at_least=0.0, at_most=1.0
    )
    model: ModelSettings = setting(factory=ModelSettings, doc="The policy")
    sft: SftSettings = setting(factory=SftSettings, doc="Its training")

    def __post_init__(self) -> None:
        if not self.tasks:
            raise SettingsError("tasks: expected at least one")


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
