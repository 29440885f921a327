"""The table of four methods: what differs between them, what is compared, and slices that go on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from irevla_policy.errors import UserError
from irevla_policy.paths import config_folder
from irevla_policy.settings import SettingsError, to_dict
from irevla_policy.sim.tasks import load_tasks
from irevla_trainer.bench import comparison, metaworld, methods
from irevla_trainer.evaluate import EvaluationTask
from irevla_trainer.loop.paper import PAPER

PRESET, FULL = (methods.load_preset("metaworld", name) for name in ("cpu", "full"))
CATEGORIES = ("expert", "rl", "unseen")


def settings(method: str) -> dict:
    return to_dict(methods.settings_of(method, PRESET, Path("bags"), Path("stage0")))


@pytest.mark.parametrize(("preset", "sizes"), [(PRESET, (10, 5, 5)), (FULL, (25, 5, 10))])
def test_presets_name_tasks_that_exist_and_keep_the_categories_apart(preset: methods.Preset, sizes: tuple):
    known = load_tasks()
    sets = preset.train.tasks
    assert (len(sets.expert), len(sets.rl), len(sets.unseen)) == sizes
    for text in (*sets.expert, *sets.rl, *sets.unseen):
        task = EvaluationTask.parse(text)
        known.variation(task.task, task.variation)
    assert len({*sets.expert, *sets.rl, *sets.unseen}) == sum(sizes)


def test_methods_differ_in_what_learns_and_in_nothing_else():
    ire_vla, frozen, replay, sft = (settings(name) for name in ("ire_vla", "frozen", "ppo_replay", "sft"))
    assert frozen["stage2"]["sft"].pop("trains") == "heads"
    assert ire_vla["stage2"]["sft"].pop("trains") == "model"
    assert frozen == ire_vla
    assert replay["stage2"]["sft"].pop("trains") == "model"
    assert (replay["stage1"].pop("trains"), ire_vla["stage1"].pop("trains")) == ("model", "heads")
    assert replay["stage1"].pop("ppo") == to_dict(PRESET.ppo_replay)
    ire_vla["stage1"].pop("ppo")
    assert replay == ire_vla
    assert not sft["stage1"]["enabled"] and not sft["init"] and ire_vla["init"] == "stage0"
    for key in ("tasks", "stage0", "evaluation", "seed"):
        assert sft[key] == ire_vla[key]


def test_more_visits_have_no_more_decisions_and_no_more_updates():
    preset = dataclasses.replace(PRESET, visits={"ire_vla": 2})
    twice, once = (methods.settings_of(name, preset, Path("bags"), Path("stage0")) for name in ("ire_vla", "frozen"))
    assert (twice.visits, once.visits) == (2, 1)
    assert 2 * twice.stage1.decisions == once.stage1.decisions == PRESET.train.stage1.decisions
    assert 2 * twice.stage2.sft.steps == once.stage2.sft.steps == PRESET.train.stage2.sft.steps


@pytest.mark.parametrize(
    ("visits", "message"),
    [
        ({"sft": 2}, "visits: expected one of ppo_replay, frozen, ire_vla, found 'sft'"),
        ({"ire_vla": 0}, r"visits: ire_vla: must be in \[1, 1200\], one decision and one update each, found 0"),
    ],
)
def test_visits_of_nothing_are_refused(visits: dict, message: str):
    with pytest.raises(SettingsError, match=message):
        dataclasses.replace(PRESET, visits=visits)


def test_visits_do_not_share_out_iterations():
    stage1 = dataclasses.replace(PRESET.train.stage1, iterations=3)
    train = dataclasses.replace(PRESET.train, stage1=stage1)
    with pytest.raises(SettingsError, match="visits: ire_vla: share out decisions"):
        dataclasses.replace(PRESET, train=train, visits={"ire_vla": 2})


def result(successes: dict[str, int], episodes: int = 50, **more: object) -> dict:
    """A run's result with so many successes per category, the first seeds of one task."""
    categories = {}
    for name in CATEGORIES:
        outcomes = [seed < successes[name] for seed in range(episodes)]
        of_task = {"success": successes[name] / episodes, "low": 0.0, "high": 1.0, "episodes": episodes}
        categories[name] = {**of_task, "tasks": {f"{name} task": {**of_task, "outcomes": outcomes}}}
    steps = {"00-stage0": {"decisions": 9}, "01-stage1-x": {"decisions": 400}, "01-stage2-x": {"decisions": 9}}
    validation = {"00-stage0": {name: {"success": 0.5} for name in CATEGORIES}}
    selected = {"step": "last", "version": "v0"}
    return {"test": categories, "selected": selected, "steps": steps, "validation": validation} | more


def table(**methods: dict[str, int]):
    results = {name: [result(methods[name])] for name in comparison.METHODS}
    return metaworld.table(results, {"collect": 1800.0, "sft": 1800.0}, hours=4.0)


GOOD = {
    "sft": {"expert": 45, "rl": 20, "unseen": 25},
    "ire_vla": {"expert": 45, "rl": 48, "unseen": 42},
    "frozen": {"expert": 44, "rl": 30, "unseen": 30},
    "ppo_replay": {"expert": 35, "rl": 25, "unseen": 20},
}


def test_figures_are_rates_and_paired_differences(tmp_path: Path):
    found = table(**GOOD)
    assert found.figures["ire_vla_rl"] == 0.96 and found.figures["sft_unseen"] == 0.5
    assert found.figures["ire_vla_minus_sft_rl"] == pytest.approx(0.56)
    assert found.figures["ire_vla_minus_sft_rl_low"] < 0.56 < found.figures["ire_vla_minus_sft_rl_high"]
    assert found.figures["hours"] == 1.0
    assert found.details["decisions"] == {name: [400] for name in comparison.METHODS}
    assert found.holds, found.missed
    results = {name: [result(GOOD[name])] for name in comparison.METHODS}
    columns = comparison.CATEGORY_COLUMNS
    comparison.write_report(tmp_path / "report.html", "Table", results, found, columns, PAPER["metaworld"])
    assert "ire_vla_minus_frozen_best_low" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "table.svg").read_text().startswith("<?xml")


def test_runs_with_several_seeds_are_pooled(tmp_path: Path):
    runs = {name: [result(GOOD[name]), result(GOOD[name] | {"rl": 0})] for name in comparison.METHODS}
    found = metaworld.table(runs, {})
    assert found.figures["ire_vla_rl"] == 0.48
    assert found.details["tasks"]["ire_vla"]["rl task"]["episodes"] == 100
    assert "hours" not in found.targets
    # Pooled it is one difference, and every run tells its own.
    runs["ire_vla"][1] = result(GOOD["ire_vla"] | {"rl": 25})
    found = metaworld.table(runs, {})
    first, second = found.details["differences"]["ire_vla_minus_ppo_replay_rl"]
    assert (first[0], second[0]) == pytest.approx((0.46, 0.5))
    assert first[1] < 0.46 < first[2]
    comparison.write_report(tmp_path / "report.html", "Table", runs, found, comparison.CATEGORY_COLUMNS, {})
    assert "Run by run" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("worse", "missed"),
    [
        ({"sft": {"expert": 35, "rl": 20, "unseen": 25}}, "sft_expert"),
        ({"ire_vla": {"expert": 45, "rl": 40, "unseen": 42}}, "ire_vla_rl"),
        ({"ire_vla": {"expert": 30, "rl": 48, "unseen": 42}}, "ire_vla_minus_sft_expert_high"),
        ({"frozen": {"expert": 44, "rl": 30, "unseen": 50}}, "ire_vla_minus_frozen_unseen_high"),
        ({"ppo_replay": GOOD["ire_vla"]}, "ire_vla_minus_ppo_replay_best_low"),
    ],
)
def test_targets_that_are_missed_are_named(worse: dict, missed: str):
    assert missed in table(**(GOOD | worse)).missed


def stored(out: Path, method: str, seed: int = 0, of_seed: int | None = None, **changes: object) -> None:
    """Let a method's run be finished, that of another seed if it has one."""
    folder = out / f"seed-{seed}" / method
    folder.mkdir(parents=True)
    stage0 = out / f"seed-{seed}" / "sft" / "checkpoint"
    settings = methods.settings_of(method, PRESET, out / "bags", stage0, seed if of_seed is None else of_seed)
    found = result(GOOD[method], settings=to_dict(settings))
    found["steps"]["00-stage0"] |= {} if method == "sft" else {"init": "v0"}
    (folder / "result.json").write_text(json.dumps(found | changes))


def test_methods_with_a_result_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for method in comparison.METHODS[1:]:
        stored(tmp_path, method)
    ran = []

    def run(self: methods.Slice, commands: dict[str, list[str]]) -> None:
        ran.extend(commands)
        for words in commands.values():
            if words[0] == "train":
                assert words[-1] == str(tmp_path / "seed-0" / "sft")
                stored(tmp_path, "sft")

    monkeypatch.setattr(methods.Slice, "run", run)
    assert metaworld.run("cpu", tmp_path).figures["ire_vla_rl"] == 0.96
    assert ran == ["collect", "sft, seed 0"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"of_seed": 3}, r"seed-0/frozen was run with other settings \(seed\)"),
        ({"steps": {"00-stage0": {"init": "v1"}}}, r"seed-0/frozen started from checkpoint v1, stage 0 is now v0"),
    ],
)
def test_results_of_something_else_are_refused(tmp_path: Path, monkeypatch, changes: dict, message: str):
    for method in comparison.METHODS:
        stored(tmp_path, method, **(changes if method == "frozen" else {}))
    monkeypatch.setattr(methods.Slice, "run", lambda self, commands: None)
    with pytest.raises(SettingsError, match=message):
        metaworld.run("cpu", tmp_path)


def test_a_run_from_another_stage_0_is_refused_before_others_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stored(tmp_path, "sft")
    stored(tmp_path, "frozen", steps={"00-stage0": {"init": "v1"}})
    monkeypatch.setattr(methods.Slice, "run", lambda self, commands: pytest.fail(f"{list(commands)} ran"))
    with pytest.raises(SettingsError, match="seed-0/frozen started from checkpoint v1"):
        metaworld.run("cpu", tmp_path)


def test_stage_0_comes_before_all_that_start_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ran, at_a_time = [], []

    def begin(self: methods.Slice, out: Path, minutes: float, parallel: int) -> None:
        at_a_time.append(parallel)
        self.seconds = {}

    def run(self: methods.Slice, commands: dict[str, list[str]]) -> None:
        ran.append(list(commands))
        for name in commands:
            if ", seed " in name:
                method, seed = name.split(", seed ")
                stored(tmp_path, method, int(seed))

    monkeypatch.setattr(methods.Slice, "__init__", begin)
    monkeypatch.setattr(methods.Slice, "run", run)
    found = metaworld.run("cpu", tmp_path, seeds=2)
    assert found.details["tasks"]["ire_vla"]["rl task"]["episodes"] == 100
    # As long again as the preset's one seed.
    assert found.targets["hours"].value == 8.0
    others = [f"{method}, seed {seed}" for seed in (0, 1) for method in ("ppo_replay", "frozen", "ire_vla")]
    assert ran == [["collect"], ["sft, seed 0", "sft, seed 1"], others]
    metaworld.run("cpu", tmp_path, parallel=5)
    assert at_a_time == [PRESET.parallel, 5]


def test_time_of_runs_that_are_not_in_the_table_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for method in comparison.METHODS:
        stored(tmp_path, method)
    spent = {"collect": 1800.0, "sft, seed 0": 1800.0, "sft, seed 1": 9000.0}
    (tmp_path / "seconds.json").write_text(json.dumps(spent))
    monkeypatch.setattr(methods.Slice, "run", lambda self, commands: None)
    assert metaworld.run("cpu", tmp_path).figures["hours"] == 1.0


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ("unseen: [", {}, r"mine\.yaml: train\.tasks\.unseen: expected a task, which the table has a column for"),
        ('rl: ["drawer-opn:new"', {}, r"mine\.yaml: tasks\.rl: .*drawer-opn"),
        ("", {"device": "nonsense"}, r"mine\.yaml: device: .*nonsense"),
    ],
)
def test_what_cannot_come_to_a_table_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: str, options: dict, message: str
):
    preset = yaml.safe_load((config_folder() / "presets" / "metaworld-cpu.yaml").read_text())
    if changes:
        preset["train"]["tasks"] |= yaml.safe_load(changes + "]")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(preset))
    monkeypatch.setattr(methods.Slice, "run", lambda self, commands: pytest.fail(f"{list(commands)} ran"))
    with pytest.raises(UserError, match=message):
        metaworld.run(str(tmp_path / "mine.yaml"), tmp_path / "out", **options)
    assert not (tmp_path / "out" / "bags").exists()


def test_what_sft_does_not_have_may_change_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for method in comparison.METHODS:
        stored(tmp_path, method)
    file = tmp_path / "seed-0" / "sft" / "result.json"
    found = json.loads(file.read_text())
    found["settings"]["stage2"]["sft"]["steps"] += 1
    file.write_text(json.dumps(found))
    monkeypatch.setattr(methods.Slice, "run", lambda self, commands: None)
    assert metaworld.run("cpu", tmp_path).figures["ire_vla_rl"] == 0.96
    found["settings"]["stage0"]["epochs"] += 1
    file.write_text(json.dumps(found))
    with pytest.raises(SettingsError, match=r"seed-0/sft was run with other settings \(stage0\)"):
        metaworld.run("cpu", tmp_path)


def test_more_demonstrations_than_wanted_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for number in range(51):
        (tmp_path / "bags" / f"door-open_{number:06d}").mkdir(parents=True)
    monkeypatch.setattr(methods.Slice, "run", lambda self, commands: None)
    with pytest.raises(SettingsError, match="has 51 demonstrations of door-open, the preset wants 50; choose another"):
        metaworld.run("cpu", tmp_path)


def test_recordings_that_were_set_aside_are_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for method in comparison.METHODS:
        stored(tmp_path, method)
    names = [f"door-open_{number:06d}" for number in range(50)]
    for name in (*names, "door-open_000023_aborted", "door-open_000023_aborted1"):
        (tmp_path / "bags" / name).mkdir(parents=True)
    monkeypatch.setattr(methods.Slice, "run", lambda self, commands: None)
    assert metaworld.run("cpu", tmp_path).figures["ire_vla_rl"] == 0.96
