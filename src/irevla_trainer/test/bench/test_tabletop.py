"""The tabletop's table: its tasks, the paper's figures against its targets, and how robot time is counted."""

from __future__ import annotations

import pytest

from irevla_policy.robot.profile import load_profile
from irevla_policy.sim.tabletop import goal_of
from irevla_policy.sim.tasks import load_tasks
from irevla_trainer.bench import methods, tabletop
from irevla_trainer.bench.comparison import write_report
from irevla_trainer.bench.result import BenchResult
from irevla_trainer.loop.paper import PAPER

PRESET = methods.load_preset("tabletop", "cpu")
EPISODES = 100


def result(rates: dict[str, float], decisions: int = 10_000, episodes: int = 400) -> dict:
    test = {
        category: {"tasks": {category: {"outcomes": [seed < round(EPISODES * rate) for seed in range(EPISODES)]}}}
        for category, rate in rates.items()
    }
    stage1 = {"task": "pick-carrot", "decisions": decisions, "episodes": episodes}
    steps = {"01-stage1-pick-carrot": stage1, "01-stage2": {}}
    return {
        "test": test,
        "selected": {"step": "last", "version": "v0"},
        "steps": steps,
        "validation": {"00-stage0": {}, "01-stage2": {}},
    }


def results(**changes: object) -> dict:
    paper = PAPER["tabletop"]
    return {"sft": [result(paper["sft"])], "ire_vla": [result(paper["ire_vla"], **changes)]}


def table(results: dict) -> BenchResult:
    spent = tabletop.robot_seconds_of(PRESET, results["ire_vla"])
    choosing = tabletop.choosing_seconds(PRESET, results["ire_vla"])
    return tabletop.table(results, {"sft": 3600.0}, 0.0, spent, choosing, frame=0.0014)


def test_the_preset_learns_new_shapes_from_blocks() -> None:
    tasks, sets = load_tasks(PRESET.train.task_file), PRESET.train.tasks
    for task in (*sets.expert, *sets.rl, *sets.unseen):
        tasks.variation(task, "")
    known = {goal_of(task).thing for task in sets.expert}
    assert not known & {goal_of(task).thing for task in (*sets.rl, *sets.unseen)}
    assert PRESET.train.stage1.algorithm == "sacfd"
    assert load_profile(PRESET.train.robot).name == load_profile(tasks.robot).name


def test_the_papers_own_figures_reach_its_targets(tmp_path) -> None:
    found = table(results())
    assert found.figures["ire_vla_rl"] == 0.80 and found.figures["sft_rl"] == 0.35
    # 50 rollouts of 8 episodes, with a validation of 20 episodes of 6 s before, after each 20th and at the end.
    hours = (1000 + 400 * tabletop.RESET_SECONDS + 4 * 20 * (6 + tabletop.RESET_SECONDS)) / 3600
    assert found.figures["robot_hours_per_task"] == pytest.approx(hours, abs=1e-3)
    # Two stages, 10 episodes of all tasks: 6 s, but for one of 12.
    tasks = PRESET.train.tasks
    number = 2 * 10 * len((*tasks.expert, *tasks.rl, *tasks.unseen))
    hours = (number * (6 + tabletop.RESET_SECONDS) + 2 * 10 * 6) / 3600
    assert found.figures["choosing_robot_hours"] == pytest.approx(hours, abs=1e-3)
    assert found.holds, found.missed
    assert "ire_vla_minus_frozen_rl" not in found.figures
    write_report(tmp_path / "report.html", "Table", results(), found, tabletop.CATEGORY_COLUMNS, PAPER["tabletop"])
    assert "ppo_replay" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(("decisions", "episodes"), [(16_000, 400), (10_000, 520)])
def test_more_than_an_hour_of_robot_time_misses(decisions: int, episodes: int) -> None:
    found = table(results(decisions=decisions, episodes=episodes))
    assert found.missed == ["robot_hours_per_task"]


def test_visits_of_a_task_add_up_and_runs_do_not() -> None:
    once, twice = results()["ire_vla"][0], results()["ire_vla"][0]
    twice["steps"] |= {"02-stage1-pick-carrot": twice["steps"]["01-stage1-pick-carrot"]}
    [single] = tabletop.robot_seconds_of(PRESET, [once, once]).values()
    assert tabletop.robot_seconds_of(PRESET, [twice, once]) == {"pick-carrot": pytest.approx(2 * single)}


def test_a_frame_is_measured() -> None:
    assert 1e-5 < tabletop.frame_seconds(PRESET) < 0.1
