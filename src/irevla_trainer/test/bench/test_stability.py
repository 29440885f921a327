"""The study of stability chooses learning rates apart from the seeds it reports, and compares fairly."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from irevla_policy.model.checkpoint import save_checkpoint
from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.paths import config_folder
from irevla_policy.robot.profile import load_profile
from irevla_policy.settings import SettingsError, load
from irevla_trainer.bench import stability
from irevla_trainer.bench.methods import load_preset
from irevla_trainer.bench.result import BenchResult
from irevla_trainer.bench.stability import (
    Course,
    Planned,
    Study,
    Way,
    _claim,
    _identity,
    _ways,
    analyse,
    difference,
    drawdown,
    ratio,
    write_report,
)
from irevla_trainer.cli import main
from irevla_trainer.loop.settings import Stage1Settings
from irevla_trainer.rl.settings import PpoSettings

WAYS = {"heads": Way("heads"), "model": Way("model")}
STUDY = Study(tasks=("one", "two"), known=("three",), ways=WAYS, seeds=5)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """What runs start from."""
    policy = VLAPolicy.create(ModelSettings(), RobotFacts.of(load_profile("sawyer")))
    save_checkpoint(tmp_path / "checkpoint", policy, {})
    return tmp_path / "checkpoint"


def analysed(course: Callable[[Planned], Course]) -> BenchResult:
    """The result of the study with runs that go as given."""
    return analyse(STUDY, lambda: 0.98, lambda plan: [course(one) for one in plan], "abc")


def test_drawdown_is_the_deepest_fall_below_the_start():
    assert drawdown([0.5, 0.6, 0.3, 0.9]) == pytest.approx(0.2)
    assert drawdown([0.5, 0.6, 0.9]) == 0.0


@pytest.mark.slow
def test_learning_rates_are_chosen_on_a_seed_of_their_own():
    asked = []

    def course(run: Planned) -> Course:
        asked.append(run)
        best = 3.0 if run.way == "heads" else 0.3
        end = 0.9 if run.factor == best else 0.6
        fall = 0.0 if run.way == "heads" else 0.1 + 0.02 * (run.seed % 5)
        return Course([0.5, 0.5 - fall, end], [0.95 if run.way == "heads" else 0.6 + 0.05 * (run.seed % 5)])

    result = analysed(course)
    assert result.details["chosen_factors"] == {"heads": 3.0, "model": 0.3}
    reported = {run for run in asked if run.seed < STUDY.seeds}
    assert {(run.way, run.factor) for run in reported} == {("heads", 3.0), ("model", 0.3)}
    assert len(reported) == 2 * 2 * 5
    figures = result.figures
    # What was practised falls by 0 and by .14 on average, what was known by .03 and by .28; .01 is added to both.
    assert figures["model_practised_drawdown_ratio"] == pytest.approx(0.15 / 0.01)
    assert figures["model_known_drawdown_ratio"] == pytest.approx(0.29 / 0.04, abs=1e-3)
    assert (figures["model_practised_drawdown"], figures["heads_practised_drawdown"]) == (0.14, 0.0)
    # Of each run the deeper of the two: .38, .33, .28, .23 and .18 of the whole model.
    assert figures["model_worst_drawdown"] == pytest.approx(0.38)
    assert (figures["model_mean_drawdown"], figures["heads_mean_drawdown"]) == (0.28, 0.03)
    assert figures["model_drawdown_ratio"] == pytest.approx(0.29 / 0.04, abs=1e-3)
    assert figures["model_drawdown_ratio_low"] > 1.0 and result.holds
    assert (result.figures["model_known_worst_end"], result.figures["heads_known_end"]) == (0.6, 0.95)


def test_a_run_counts_with_the_deeper_of_its_falls():
    def course(run: Planned) -> Course:
        """Every second seed of the whole model falls on what it practises, the others on what was known."""
        fall = 0.4 if run.way == "model" else 0.0
        practised = run.seed % 2 == 0
        return Course([0.5, 0.5 - fall * practised, 0.6], [0.98 - fall * (not practised)])

    figures = analysed(course).figures
    assert (figures["model_mean_drawdown"], figures["model_practised_drawdown"]) == (0.4, 0.24)
    assert figures["model_drawdown_ratio"] == pytest.approx(0.41 / 0.01)
    assert figures["model_practised_drawdown_ratio"] == pytest.approx(0.25 / 0.01)
    assert figures["model_known_drawdown_ratio"] == pytest.approx(0.17 / 0.01)
    assert [figures[f"model_drawdown_difference{end}"] for end in ("", "_low", "_high")] == [0.4, 0.4, 0.4]


def test_a_fall_of_what_was_known_does_not_hide_that_what_is_practised_never_fell():
    result = analysed(lambda run: Course([0.5, 0.6], [0.98 if run.way == "heads" else 0.6]))
    assert result.figures["model_drawdown_ratio_low"] > 1.0 and not result.holds


@pytest.mark.parametrize("fall", [0.0, 0.1])
def test_ways_that_are_alike_do_not_hold(fall: float):
    result = analysed(lambda run: Course([0.5, 0.5 - fall - 0.1 * fall * run.seed, 0.6], [0.9]))
    assert result.figures["model_drawdown_ratio"] == pytest.approx(1.0)
    assert not result.holds


def claimed(folder: Path, study: Study = STUDY, version: str = "abc") -> None:
    """As the study does when it begins, with demonstrations that are not at hand."""
    _claim(folder, _identity(study, version))
    _claim(folder, _ways(study, []))


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": 7},
        {"tasks": ("one", "three")},
        {"factors": (1.0,)},
        {"ways": {**WAYS, "alone": Way("heads", PpoSettings(rehearsal_weight=0.0))}},
        {"ways": {"model": WAYS["model"], "heads": WAYS["heads"]}},
    ],
)
def test_further_seeds_tasks_rates_and_ways_may_join(tmp_path, changes):
    claimed(tmp_path)
    claimed(tmp_path, replace(STUDY, **changes))
    claimed(tmp_path)


@pytest.mark.parametrize(
    ("study", "version", "what"),
    [
        (STUDY, "other", "checkpoint"),
        (replace(STUDY, sweep_decisions=7), "abc", "sweep_decisions"),
        (replace(STUDY, stage1=Stage1Settings(converged=2.0, decisions=7)), "abc", "stage1: decisions"),
        (replace(STUDY, ways={**WAYS, "model": Way("model", PpoSettings(clip=0.3))}), "abc", "way model: ppo: clip"),
    ],
)
def test_runs_of_another_study_are_refused(tmp_path, study, version, what):
    claimed(tmp_path)
    with pytest.raises(SettingsError, match=rf"another study \({what}\); choose another folder"):
        claimed(tmp_path, study, version)


def test_every_other_way_is_compared_with_the_first():
    study = replace(STUDY, ways={**WAYS, "alone": Way("heads")})
    falls = {"heads": 0.1, "model": 0.0, "alone": 0.32}

    def course(run: Planned) -> Course:
        return Course([0.5, 0.5 - falls[run.way], 0.6], [0.98])

    figures = analyse(study, lambda: 0.98, lambda plan: [course(one) for one in plan], "abc").figures
    assert figures["alone_drawdown_ratio"] == pytest.approx(3.0)
    assert figures["model_drawdown_ratio"] == pytest.approx(0.01 / 0.11, abs=1e-3)
    assert "heads_drawdown_ratio" not in figures


def test_a_way_that_rehearses_needs_demonstrations(checkpoint, tmp_path, monkeypatch):
    study = replace(STUDY, ways={**WAYS, "model": Way("model", PpoSettings(rehearsal_weight=0.0))})
    monkeypatch.setattr(stability, "load", lambda kind, path: study)
    with pytest.raises(SettingsError, match=r"--bags: expected .* the known tasks, which heads rehearses"):
        stability.run(checkpoint, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ways": {"heads": Way()}}, "ways: expected at least two to compare, found heads"),
        ({"ways": {**WAYS, "../b": Way()}}, "ways: expected names of letters, digits and underscores, found '../b'"),
        ({"ways": {**WAYS, "b": Way(ppo=PpoSettings(episodes=7))}}, "ways: ppo: episodes must be the same for all"),
        ({"stage1": Stage1Settings(ppo=PpoSettings(epochs=7))}, "stage1: ppo: leave it out"),
        ({"stage1": Stage1Settings(trains="model")}, "stage1: trains: leave it out"),
        ({"stage1": Stage1Settings(algorithm="sacfd")}, "stage1: algorithm: leave it out"),
    ],
)
def test_what_is_no_study_is_refused(changes: dict, message: str):
    with pytest.raises(SettingsError, match=re.escape(message)):
        replace(STUDY, **changes)


def test_the_ways_are_those_of_the_table_in_iterations_of_the_same_length():
    study = load(Study, config_folder() / "presets" / "stability.yaml")
    table = load_preset("metaworld", "cpu")
    # Ways are compared iteration by iteration: the heads have those of the whole model, and no earlier rollouts.
    length = table.ppo_replay.episodes
    heads = replace(table.train.stage1.ppo, episodes=length, reuse=1, epochs=PpoSettings().epochs)
    assert study.ways == {"heads": Way("heads", heads), "model": Way("model", table.ppo_replay)}
    assert study.known == table.train.tasks.expert
    assert study.seeds >= 5 and study.known_episodes * len(study.known) >= 200 <= study.stage1.validation_episodes


def test_the_ratio_stays_finite_when_one_way_never_falls():
    assert ratio([[0.2] * 3], [[0.0] * 3]) == pytest.approx((21.0,) * 3)
    assert difference([[0.2] * 3], [[0.0] * 3]) == pytest.approx((0.2,) * 3)


@pytest.mark.slow
def test_the_report_shows_every_run(tmp_path):
    result = analysed(lambda run: Course([0.5, 0.4, 0.6 + 0.02 * run.seed], [0.9]))
    write_report(tmp_path / "report.html", result)
    page = (tmp_path / "report.html").read_text()
    for text in ("one: heads", "two: heads", "one: model", "two: model", "model_drawdown_ratio_low"):
        assert text in page, text
    chart = (tmp_path / "stability.svg").read_text()
    assert chart.startswith("<?xml")
    write_report(tmp_path / "report.html", result)
    assert (tmp_path / "stability.svg").read_text() == chart


@pytest.mark.slow
def test_runs_at_a_time_are_those_one_after_the_other(checkpoint, tmp_path, monkeypatch):
    stage1 = Stage1Settings(decisions=60, validate_every=1, validation_episodes=2, successes=1, converged=2.0)
    ppo = PpoSettings(episodes=2, epochs=1, minibatch=32)
    study = Study(
        tasks=("drawer-close",), known=("window-close",), seeds=2, factors=(1.0,), sweep_decisions=1, known_episodes=1,
        ways={"heads": Way("heads", ppo), "model": Way("model", replace(ppo, rehearsal_weight=0.0))},
        stage1=stage1, worlds=2,
    )  # fmt: skip
    monkeypatch.setattr(stability, "load", lambda kind, path: study)
    bags = tmp_path / "bags"
    words = ["collect", "--world", "metaworld", "--robot", "sawyer", "--task", "window-close", "--episodes", "2"]
    assert main([*words, "--out", str(bags)]) == 0
    results = [
        stability.run(checkpoint, tmp_path / f"runs-{parallel}", parallel=parallel, bags=bags) for parallel in (1, 2)
    ]
    assert results[0].figures == results[1].figures
    assert results[0].details["success"] == results[1].details["success"]
    assert results[1].details["devices"] == {"cpu": 4}
    assert len(list((tmp_path / "runs-2").glob("*/success.json"))) == 2 + 4
    assert not (tmp_path / "runs-2" / "cache").exists()
    for way, rehearses in (("heads", True), ("model", False)):
        metrics = (tmp_path / "runs-2" / f"{way}-drawer-close-1-0" / "metrics.jsonl").read_text()
        assert ("imitation" in metrics) == rehearses


@pytest.mark.slow
def test_runs_at_a_time_end_at_once_when_asked(checkpoint, tmp_path, monkeypatch):
    stage1 = Stage1Settings(decisions=10**6, validate_every=1000, validation_episodes=2, successes=1, converged=2.0)
    ways = {"heads": Way("heads", PpoSettings(episodes=2, epochs=1, rehearsal_weight=0.0))}
    ways |= {"model": replace(ways["heads"], trains="model")}
    study = Study(
        tasks=("drawer-close",), known=("window-close",), seeds=3, factors=(1.0,), sweep_decisions=10**6,
        known_episodes=1, ways=ways, stage1=stage1, worlds=1,
    )  # fmt: skip
    monkeypatch.setattr(stability, "load", lambda kind, path: study)

    def stop() -> None:
        while len(list(tmp_path.glob("runs/*/metrics.jsonl"))) < 2:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)
        asked.append(time.monotonic())

    asked: list[float] = []
    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        stability.run(checkpoint, tmp_path / "runs", parallel=2)
    assert time.monotonic() - asked[0] < 15.0
    assert not multiprocessing.active_children()
    assert not list(tmp_path.glob("runs/*/success.json"))


@pytest.mark.slow
def test_a_run_that_diverges_counts_as_lost(checkpoint, tmp_path, monkeypatch):
    stage1 = Stage1Settings(decisions=60, validate_every=1, validation_episodes=2, successes=1, converged=2.0)
    ppo = PpoSettings(episodes=2, epochs=1, minibatch=32, rehearsal_weight=0.0, warmup=0, kl_stop=1e30)
    wild = replace(ppo, actor_learning_rate=1.0, backbone_learning_rate=1e30, gradient_clip=1e30)
    study = Study(
        tasks=("drawer-close",), known=("window-close",), seeds=2, factors=(1.0,), sweep_decisions=1, known_episodes=1,
        ways={"heads": Way("heads", ppo), "model": Way("model", wild)}, stage1=stage1, worlds=2,
    )  # fmt: skip
    monkeypatch.setattr(stability, "load", lambda kind, path: study)
    result = stability.run(checkpoint, tmp_path / "runs")
    for runs in result.details["success"]["model"].values():
        assert all(run[-1] == 0.0 for run in runs)
    assert result.figures["model_known_end"] == 0.0
