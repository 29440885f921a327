"""The demo's presets and what it calls a success."""

from __future__ import annotations

from pathlib import Path

import pytest

from irevla_policy.errors import RunError
from irevla_policy.paths import config_folder
from irevla_policy.settings import SettingsError
from irevla_policy.sim.tasks import load_tasks
from irevla_trainer.demo.outcome import shortfalls, summary, write_summary
from irevla_trainer.demo.settings import DemoSettings, load_preset
from irevla_trainer.demo.stages import DemoRun
from irevla_trainer.ros.episodes import EndedEpisode

PRESETS = sorted(path.stem.removeprefix("demo-") for path in (config_folder() / "presets").glob("demo-*.yaml"))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_name_real_tasks_and_promise_something(name: str) -> None:
    settings = load_preset(name)
    assert {load_tasks().task_name(task) for task in settings.tasks} == set(settings.tasks)
    assert settings.expected_success > settings.expected_before or name == "ci"


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"--preset: expected one of .*default.*, found 'huge'"):
        load_preset("huge")


def _run(folder: Path, before: int, after: int) -> DemoRun:
    run = DemoRun(DemoSettings(tasks=("drawer-open",), episodes=10), folder)

    def episodes(successes: int) -> list[EndedEpisode]:
        return [EndedEpisode("drawer-open", seed, seed < successes, 20, "open it", None) for seed in range(10)]

    run.before["drawer-open"], run.after["drawer-open"] = episodes(before), episodes(after)
    run.metrics = [{"loss": 0.1}]
    run.seconds = {"train": 1.0, "after": 2.0}
    return run


def test_summary_counts_episodes_and_pairs_the_seeds(tmp_path: Path) -> None:
    found = summary(_run(tmp_path, 0, 8))
    assert found["tasks"]["drawer-open"]["after"] == pytest.approx(
        {"success": 0.8, "low": 0.4902, "high": 0.9433, "successes": 8, "episodes": 10}
    )
    assert found["tasks"]["drawer-open"]["difference"]["mean"] == pytest.approx(0.8)
    assert found["seconds"] == {"train": 1.0, "after": 2.0, "total": 3.0}
    assert found["holds"] is True


@pytest.mark.parametrize(
    ("before", "after", "complaint"), [(0, 5, "after training 0.50"), (3, 9, "before training 0.30")]
)
def test_a_demo_that_shows_nothing_fails(tmp_path: Path, before: int, after: int, complaint: str) -> None:
    run = _run(tmp_path, before, after)
    assert complaint in shortfalls(run)[0]
    with pytest.raises(RunError, match="fell short"):
        write_summary(run)
    assert (tmp_path / "summary.json").is_file()
