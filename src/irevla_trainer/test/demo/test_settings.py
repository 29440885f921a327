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
from irevla_trainer.evaluate import EvaluationTask
from irevla_trainer.ros.episodes import EndedEpisode

PRESETS = sorted(path.stem.removeprefix("demo-") for path in (config_folder() / "presets").glob("demo-*.yaml"))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_name_real_tasks_and_promise_something(name: str) -> None:
    settings = load_preset(name)
    assert {load_tasks().task_name(task) for task in settings.tasks} == set(settings.tasks)
    practised = EvaluationTask.parse(settings.practice)
    load_tasks().variation(practised.task, practised.variation)
    assert settings.practice not in settings.tasks
    assert settings.expected_rise >= 0.2 or name == "ci"


def test_others_are_the_tasks_of_other_kinds() -> None:
    both = DemoSettings(tasks=("drawer-open", "window-open"), practice="window-open:blue")
    assert both.evaluated == ("window-open:blue", "drawer-open")
    assert DemoSettings(tasks=("drawer-open",), practice="drawer-open:blue").others == ("drawer-open",)


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"--preset: expected one of .*default.*, found 'huge'"):
        load_preset("huge")


def _run(folder: Path, before: int, after: int, taught: int = 10, kept: int = 10, promoted: bool = True) -> DemoRun:
    """A demo with so many successes of ten: of the practised task, and of the other one before and after."""
    settings = DemoSettings(tasks=("drawer-open",), practice="drawer-open:blue", episodes=10)
    run = DemoRun(settings, folder)

    def episodes(successes: int) -> list[EndedEpisode]:
        return [EndedEpisode("drawer-open", seed, seed < successes, 20, "open it", None) for seed in range(10)]

    run.before = {"drawer-open:blue": episodes(before), "drawer-open": episodes(taught)}
    run.after = {"drawer-open:blue": episodes(after), "drawer-open": episodes(kept)}
    run.metrics = [{"loss": 0.1}]
    run.outcome = {"promoted": promoted, "message": "better"}
    run.seconds = {"before": 1.0, "after": 2.0}
    return run


def test_summary_counts_episodes_and_pairs_the_seeds(tmp_path: Path) -> None:
    found = summary(_run(tmp_path, 2, 8))
    assert list(found["tasks"]) == ["drawer-open:blue", "drawer-open"]
    assert found["tasks"]["drawer-open:blue"]["after"] == pytest.approx(
        {"success": 0.8, "low": 0.4902, "high": 0.9433, "successes": 8, "episodes": 10}
    )
    assert found["tasks"]["drawer-open:blue"]["difference"]["mean"] == pytest.approx(0.6)
    assert found["seconds"] == {"before": 1.0, "after": 2.0, "total": 3.0}
    assert found["job"]["promoted"] is True
    assert found["holds"] is True


def test_the_summary_names_the_candidate_as_the_folder_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = _run(Path("out/demo"), 2, 8)
    run.outcome["checkpoint"] = str(tmp_path / "out/demo/trainer/policies/0123")
    assert summary(run)["job"]["checkpoint"] == "out/demo/trainer/policies/0123"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"after": 3}, "drawer-open:blue: the practice raised success by 0.10, expected 0.2"),
        ({"taught": 5}, "drawer-open: success after teaching 0.50"),
        ({"kept": 4}, "drawer-open: the practice made it worse by 0.60"),
        ({"promoted": False}, "the practised policy was not promoted: better"),
    ],
)
def test_a_demo_that_shows_nothing_fails(tmp_path: Path, changes: dict, complaint: str) -> None:
    run = _run(tmp_path, **({"before": 2, "after": 8} | changes))
    assert complaint in shortfalls(run)[0]
    with pytest.raises(RunError, match="fell short"):
        write_summary(run)
    assert (tmp_path / "summary.json").is_file()
