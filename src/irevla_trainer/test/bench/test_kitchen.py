"""The kitchen's table: the paper's columns, its targets, and few demonstrations of one task."""

from __future__ import annotations

from pathlib import Path

import pytest

from irevla_policy.robot.profile import load_profile
from irevla_policy.settings import SettingsError, from_dict, to_dict
from irevla_policy.sim.tasks import load_tasks
from irevla_trainer.bench import kitchen, methods
from irevla_trainer.bench.comparison import METHODS, write_report
from irevla_trainer.evaluate import EvaluationTask
from irevla_trainer.loop.paper import KITCHEN_COLUMNS, PAPER

PRESET = methods.load_preset("kitchen", "cpu")
EPISODES = 100


def result(successes: dict[str, int]) -> dict:
    """A run's result with so many successes of each column, on the first seeds."""
    categories: dict[str, dict] = {}
    for column in (*kitchen.COLUMNS, kitchen.Column("", "rl", kitchen.LIFTED)):
        ended = [seed < successes[column.task] for seed in range(EPISODES)]
        categories.setdefault(column.category, {"tasks": {}})["tasks"][column.task] = {"outcomes": ended}
    return {"test": categories, "selected": {"step": "last", "version": "v0"}, "steps": {}, "validation": {}}


def results(**changes: dict[str, int]) -> dict:
    paper = {
        method: {
            task: round(EPISODES * value) for task, value in KITCHEN_COLUMNS.get(method, KITCHEN_COLUMNS["sft"]).items()
        }
        for method in METHODS
    }
    return {method: [result(paper[method] | changes.get(method, {}))] for method in METHODS}


def test_the_preset_has_the_papers_columns():
    tasks, sets = load_tasks(PRESET.train.task_file), PRESET.train.tasks
    for text in (*sets.expert, *sets.rl, *sets.unseen):
        task = EvaluationTask.parse(text)
        tasks.variation(task.task, task.variation)
    assert {column.task for column in kitchen.COLUMNS} == {*sets.expert, *sets.rl, *sets.unseen}
    assert all(column.task in getattr(sets, column.category) for column in kitchen.COLUMNS)
    assert kitchen.LIFTED in sets.rl and PRESET.few[kitchen.LIFTED] < PRESET.demonstrations
    assert load_profile(PRESET.train.robot).joints == load_profile(tasks.robot).joints


def test_the_papers_own_figures_reach_its_targets(tmp_path: Path):
    found = kitchen.table(results(), {"sft": 3600.0}, hours=4.0)
    assert found.figures["ire_vla_slide-door-open:red"] == pytest.approx(0.99, abs=0.011)
    assert found.figures["ire_vla_minus_sft_left-door-open"] == pytest.approx(0.40, abs=0.011)
    assert found.figures["ire_vla_unseen"] == 1.0
    assert found.holds, found.missed
    write_report(tmp_path / "report.html", "Table", results(), found, kitchen.COLUMNS, KITCHEN_COLUMNS)
    assert "microwave-open" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({"ire_vla": {"microwave-open": 73}}, "ire_vla_microwave-open_high"),
        ({"ppo_replay": {"knob-on": 100}, "ire_vla": {"knob-on": 60}}, "ire_vla_minus_ppo_replay_knob-on_high"),
        ({"sft": {"left-door-open": 60}}, "ire_vla_minus_sft_left-door-open"),
    ],
)
def test_targets_that_are_missed_are_named(changes: dict, missed: str):
    assert missed in kitchen.table(results(**changes), {}).missed


def test_a_rate_whose_interval_holds_the_papers_figure_is_not_missed():
    assert kitchen.table(results(ire_vla={"microwave-open": 76}), {}).holds


def test_the_left_door_counts_among_both_categories():
    assert PAPER["kitchen"]["sft"] == {"expert": 0.758, "rl": 0.445, "unseen": 0.98}


def test_tasks_with_few_demonstrations_are_recorded_by_a_command_of_their_own(tmp_path: Path, monkeypatch):
    asked = []

    def run(self: methods.Slice, commands: dict[str, list[str]]) -> None:
        for words in commands.values():
            if words[0] == "train":
                raise KeyboardInterrupt
            asked.append(words)

    monkeypatch.setattr(methods.Slice, "run", run)
    with pytest.raises(KeyboardInterrupt):
        kitchen.run("cpu", tmp_path)
    common = {"--world": "kitchen", "--robot": "panda_kitchen_held", "--out": str(tmp_path / "bags")}
    assert [dict(zip(words[1::2], words[2::2], strict=True)) for words in asked] == [
        common | {"--task": "knob-on,light-on,microwave-open,slide-door-open", "--episodes": "50"},
        common | {"--task": "left-door-open", "--episodes": "5"},
    ]


@pytest.mark.parametrize(
    ("few", "message"),
    [
        ({"drawer-open": 3}, "few: 'drawer-open' is none of train.tasks.expert"),
        ({"knob-on": 0}, "few: knob-on: must be"),
    ],
)
def test_few_of_an_unknown_task_is_refused(few: dict, message: str):
    with pytest.raises(SettingsError, match=message):
        from_dict(methods.Preset, to_dict(PRESET) | {"few": few})
