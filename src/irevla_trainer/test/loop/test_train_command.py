"""`irevla train`: the loop from bags to a result, its variants, and one clear line for what goes wrong."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path

import pytest
import yaml
from sample_episodes import write_episode
from stand_in_worlds import StandInWorlds
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from irevla_policy.errors import UserError
from irevla_policy.model import checkpoint as checkpoints
from irevla_policy.model.checkpoint import checkpoint_version, load_checkpoint, save_checkpoint
from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.robot.profile import load_profile
from irevla_policy.settings import load
from irevla_trainer.cli import main
from irevla_trainer.data.frames import FrameFile
from irevla_trainer.jobs.progress import phases
from irevla_trainer.learn import sft, training_state
from irevla_trainer.loop import algorithm, run
from irevla_trainer.loop.account import read_account
from irevla_trainer.loop.check import check
from irevla_trainer.loop.report import write_report
from irevla_trainer.loop.run import RunFolder
from irevla_trainer.loop.settings import TaskSets, TrainFile, title_of_visit

ROOT = Path(__file__).resolve().parents[4]
PROFILE = load_profile("sawyer")
STAGES = ["00-stage0", "01-stage1-drawer-open-blue", "01-stage2-drawer-open-blue"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No simulator, and no report of every run."""
    monkeypatch.setattr(algorithm, "Worlds", StandInWorlds)
    monkeypatch.setattr(algorithm, "write_report", lambda folder: None)


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bags")
    for number in range(2):
        write_episode(folder / f"drawer-{number}", steps=6, task="drawer-open")
    write_episode(folder / "window", steps=6, task="window-open")
    # Would be seen before the test, if it were taken for the task itself.
    write_episode(folder / "window-blue", steps=6, task="window-open", variation="blue")
    return folder


@pytest.fixture
def train(bags, tmp_path):
    """Calls `irevla train` with a tiny configuration, changed by the given keys, into tmp_path/run."""

    def call(*words: str, **changes) -> int:
        settings = {
            "tasks": {"expert": ["drawer-open", "window-open"], "rl": ["drawer-open:blue"], "unseen": ["drawer-close"]},
            "bags": [str(bags)],
            "stage0": {"steps": 2, "batch_size": 4, "validation_share": 0.0},
            "stage1": {"decisions": 20, "validation_episodes": 2, "ppo": {"episodes": 4, "warmup": 0, "minibatch": 8}},
            "stage2": {"sft": {"steps": 2, "batch_size": 4, "validation_share": 0.0}},
            "evaluation": {"validation_episodes": 2, "test_episodes": 3, "filmed": 0},
            "threads": 1,
        }
        file = tmp_path / "train.yaml"
        file.write_text(yaml.safe_dump(settings | changes))
        return main(["train", "--config", str(file), "--out", str(tmp_path / "run"), *words])

    return call


def result_of(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def test_from_bags_to_a_tested_checkpoint(train, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(algorithm, "write_report", write_report)
    assert train(evaluation={"validation_episodes": 2, "test_episodes": 3, "filmed": 1}) == 0
    folder = tmp_path / "run"
    result = result_of(folder)
    assert list(result["steps"]) == list(result["validation"]) == STAGES
    assert result["steps"]["00-stage0"]["episodes"] == 3
    assert result["steps"]["00-stage0"]["decisions"] == 18
    stage1, stage2 = (result["steps"][name] for name in STAGES[1:])
    assert stage1["successes"] > 0
    assert stage2["success_episodes"] == stage1["kept_successes"]
    assert stage2["episodes"] == 3 + stage2["success_episodes"]
    assert {name: values["episodes"] for name, values in result["test"].items()} == {"expert": 6, "rl": 3, "unseen": 3}
    assert result["test"]["rl"]["tasks"]["drawer-open:blue"]["seeds"] == [2_000_000, 2_000_001, 2_000_002]
    # A success and a failure of each of the four tasks.
    assert sorted(result["films"].values()) == [False] * 4 + [True] * 4
    assert all((folder / film).stat().st_size for film in result["films"])

    selected = result["selected"]
    scores = {
        name: (values["expert"]["success"] + values["rl"]["success"]) / 2
        for name, values in result["validation"].items()
    }
    assert scores[selected["step"]] == max(scores.values())
    assert checkpoint_version(folder / "checkpoint") == selected["version"]
    assert checkpoint_version(folder / "steps" / selected["step"] / "checkpoint") == selected["version"]
    assert load_checkpoint(folder / "checkpoint").robot.name == PROFILE.name
    assert not list(folder.rglob("state.safetensors"))
    shown = capsys.readouterr()
    assert f"version {selected['version']}" in shown.out
    assert "stage 1 drawer-open:blue: " in shown.err
    assert "Traceback" not in shown.err
    assert (folder / "report.html").is_file()

    # Once more: nothing is left to do.
    assert train("--resume", evaluation={"validation_episodes": 2, "test_episodes": 3, "filmed": 1}) == 0
    assert "has finished already" in capsys.readouterr().out
    assert train() == 2
    assert "holds a finished run" in capsys.readouterr().err


@pytest.mark.slow
def test_every_task_starts_where_the_last_ended_and_learns_from_all_successes(train, tmp_path, monkeypatch):
    starts, rehearsed, stage_1 = [], [], algorithm.stage_1

    def seen(policy, *arguments, **named):
        starts.append({name: value.clone() for name, value in policy.state_dict().items()})
        rehearsed.append(len(named["rehearsed"]))
        return stage_1(policy, *arguments, **named)

    monkeypatch.setattr(algorithm, "stage_1", seen)
    rl = ["drawer-open:blue", "window-open:blue"]
    assert train(tasks={"expert": ["drawer-open", "window-open"], "rl": rl}) == 0
    steps = result_of(tmp_path / "run")["steps"]
    names = [*STAGES, "02-stage1-window-open-blue", "02-stage2-window-open-blue"]
    assert list(steps) == names
    for start, before in zip(starts, (names[0], names[2]), strict=True):
        loaded = load_checkpoint(tmp_path / "run" / "steps" / before / "checkpoint").state_dict()
        assert all(value.equal(loaded[name]) for name, value in start.items())
    kept = [steps[name]["kept_successes"] for name in (names[1], names[3])]
    assert min(kept) > 0
    assert [steps[name]["success_episodes"] for name in (names[2], names[4])] == [kept[0], sum(kept)]
    assert rehearsed == [3, 3 + kept[0]]


def test_visits_come_in_a_row_and_rounds_after_all_tasks():
    tasks = TaskSets(expert=("door-open",), rl=("drawer-open", "window-open"))
    settings = TrainFile(tasks=tasks, visits=2, rounds=2)
    order = ["drawer-open", "drawer-open", "window-open", "window-open"] * 2
    assert list(settings.learnt_tasks) == order
    assert [task for kind, task in phases(settings) if kind == "rl"] == order
    titles = [title_of_visit(settings.learnt_tasks, number) for number in (1, 2, 3, 5)]
    assert titles == ["drawer-open", "drawer-open, visit 2", "window-open", "drawer-open, visit 3"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("again", "order"),
    [
        ("visits", ["drawer-open:blue"] * 2 + ["window-open:blue"] * 2),
        ("rounds", ["drawer-open:blue", "window-open:blue"] * 2),
    ],
)
def test_tasks_come_again_in_a_row_or_after_all_others(train, tmp_path, again, order):
    rl = ["drawer-open:blue", "window-open:blue"]
    assert train(**{again: 2}, tasks={"expert": ["drawer-open", "window-open"], "rl": rl}) == 0
    learnt = [name for name in result_of(tmp_path / "run")["steps"] if "-stage1-" in name]
    assert learnt == [f"{number:02d}-stage1-{task.replace(':', '-')}" for number, task in enumerate(order, start=1)]
    account = read_account(tmp_path / "run")
    assert [stage.task for stage in account.stages] == ["", *(task for task in order for _ in range(2))]
    assert len({str(stage) for stage in account.stages}) == len(account.stages), "each told from the others"
    assert len(account.stages) == account.planned


@pytest.mark.parametrize("again", ["visits", "rounds"])
def test_a_task_that_comes_again_keeps_its_newest_successes_and_does_not_rehearse_them(
    train, tmp_path, monkeypatch, again
):
    monkeypatch.setattr(StandInWorlds, "success", staticmethod(lambda request, actions: True))
    rehearsed, replayed, stage_1, stage_2 = [], [], algorithm.stage_1, algorithm.stage_2

    def first(policy, *arguments, **named):
        rehearsed.append(len(named["rehearsed"]))
        return stage_1(policy, *arguments, **named)

    def second(policy, experts, successes, *arguments):
        replayed.append([episode.seed for episode in successes])
        return stage_2(policy, experts, successes, *arguments)

    monkeypatch.setattr(algorithm, "stage_1", first)
    monkeypatch.setattr(algorithm, "stage_2", second)
    learning = {"decisions": 12, "validation_episodes": 1, "successes": 6, "converged": 2.0}
    assert train(**{again: 2}, stage1=learning | {"ppo": {"episodes": 4, "warmup": 0, "minibatch": 8}}) == 0
    assert rehearsed == [3, 3], "the demonstrations alone"
    once, twice = replayed
    assert len(once) == 4 and twice[:2] == once[-2:] and len(twice) == 6 and not set(twice[2:]) & set(once)
    curves = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    for title in ("stage_1_drawer-open-blue", "stage_1_drawer-open-blue_visit_2"):
        steps = [event.step for event in curves.Scalars(f"{title}/rollout_success")]
        assert steps == sorted(set(steps)), "a curve of its own"


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({"tasks": {"expert": ["drawer-open"]}}, STAGES[:1]),
        ({"stage1": {"enabled": False}}, STAGES[:1]),
        ({"stage2": {"enabled": False}, "from_scratch": True, "bags": []}, STAGES[:2]),
    ],
    ids=["no rl tasks", "no stage 1", "from scratch, no stage 2"],
)
def test_parts_can_be_left_out(train, tmp_path, changes, stages):
    assert train(**changes) == 0
    assert list(result_of(tmp_path / "run")["steps"]) == stages


def test_stage_2_alone_is_about_no_task(train, tmp_path):
    save_checkpoint(tmp_path / "start", VLAPolicy.create(ModelSettings(), RobotFacts.of(PROFILE)))
    assert train(init=str(tmp_path / "start"), stage1={"enabled": False}) == 0
    account = read_account(tmp_path / "run")
    assert [str(stage) for stage in account.stages] == ["stage 0", "stage 2"]
    assert account.planned == 2


@pytest.mark.slow
def test_from_a_checkpoint_and_with_a_backbone_that_stays(train, tmp_path, capsys):
    policy = VLAPolicy.create(ModelSettings(), RobotFacts.of(PROFILE), seed=7)
    version = save_checkpoint(tmp_path / "start", policy)
    frozen = {"sft": {"steps": 2, "batch_size": 4, "validation_share": 0.0, "trains": "heads"}}
    assert train(init=str(tmp_path / "start"), stage2=frozen) == 0
    assert result_of(tmp_path / "run")["steps"]["00-stage0"]["init"] == version
    folders = [tmp_path / "start", *(tmp_path / "run" / "steps" / name / "checkpoint" for name in STAGES)]
    backbones = {(folder / "backbone.safetensors").read_bytes() for folder in folders}
    heads = [(folder / "heads.safetensors").read_bytes() for folder in folders]
    assert len(backbones) == 1
    assert heads[0] == heads[1]
    assert heads[2] != heads[3]


@pytest.mark.slow
def test_no_success_is_said_and_the_run_goes_on(train, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(StandInWorlds, "success", staticmethod(lambda request, actions: False))
    assert train() == 0
    errors = capsys.readouterr().err
    assert "stage 1 drawer-open:blue: no success in 8 episodes; goes on" in errors
    assert "stage 2 drawer-open:blue: no success so far to learn from; goes on with the policy as it was" in errors
    assert result_of(tmp_path / "run")["steps"][STAGES[2]]["success_episodes"] == 0
    versions = {checkpoint_version(tmp_path / "run" / "steps" / name / "checkpoint") for name in STAGES}
    assert len(versions) == 1


def test_the_default_configuration_loads(tmp_path):
    settings = load(TrainFile, ROOT / "config" / "train.yaml")
    assert settings.tasks.rl
    with pytest.raises(UserError, match="bags: bags: no such bag or folder of bags"):
        check(settings, ROOT / "config" / "train.yaml")


def tasks(**changes):
    return {"tasks": {"expert": ["drawer-open"], **changes}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (tasks(expert=[]), "tasks: expert: expected at least one task"),
        (tasks(expert=["drawer-opne"]), "tasks.expert: no task 'drawer-opne' in world 'metaworld'; did you mean"),
        (tasks(rl=["drawer-open:pink"]), "tasks.rl: no variation 'pink' of task 'drawer-open'"),
        (tasks(unseen=["drawer-opne"]), "tasks.unseen: no task 'drawer-opne'"),
        (tasks(rl=["window-open"], unseen=["window-open"]), "tasks.unseen: window-open is learnt too"),
        (tasks(unseen=["drawer-open-v3"]), "tasks.unseen: drawer-open is learnt too"),
        (tasks(rl=["window-open", "window-open"]), "tasks: rl: 'window-open' is named twice"),
        ({"task_file": "cellar"}, "task_file: no tasks of world 'cellar'"),
        ({"task_file": "kitchen"}, "tasks.expert: no task 'drawer-open' in world 'kitchen'"),
        ({"robot": "panda_kitchen"}, "robot: robot 'kitchen_panda': Meta-World takes 80 setpoints a second"),
        ({"stage1": {"algorithm": "sacfd", "trains": "model"}}, "stage1: trains: sacfd learns from stored latents"),
        ({"stage1": {"trains": "model", "ppo": {"reuse": 2}}}, "stage1: ppo: reuse: must be 1 where the whole model"),
        ({"stage1": {"decision": 3}}, "stage1: unknown key 'decision'"),
        ({"stage1": {"decisions": 0}}, "stage1: decisions: must be at least 1, found 0"),
        ({"model": {"chunk": 4}}, "model: chunk: must be 1 for reinforcement learning"),
        ({"stage0": {"seed": 4}}, "stage0: seed: leave it out"),
        (
            {"stage2": {"sft": {"validation_share": 0.2}}},
            "stage2: sft: validation_share: must be 0, stage 2 learns from",
        ),
        ({"robot": "r2d2"}, "robot: "),
        ({"device": "warp"}, "device: device 'warp' cannot be used"),
        ({"bags": []}, "bags: expected at least one folder"),
        ({"bags": ["nowhere"]}, "bags: nowhere: no such bag or folder of bags"),
        ({"init": "nowhere"}, "init: nowhere: no such checkpoint folder"),
        ({"init": "nowhere", "from_scratch": True}, "from_scratch: init names a checkpoint"),
        # Known only when the bags have been read.
        (tasks(expert=["drawer-open", "door-open"]), "bags: no demonstration of the expert task door-open in "),
        (tasks(expert=["drawer-open", "drawer-open:blue"]), "no demonstration of the expert task drawer-open:blue in"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_folder(train, tmp_path, capsys, changes, message):
    assert train(**changes) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("irevla train: ")
    assert message in lines[-1]
    if "no demonstration" not in message:
        assert len(lines) == 1
        assert re.search(rf"{re.escape(str(tmp_path / 'train.yaml'))}(:\d+)?: ", lines[0])  # with its line where known
    assert not (tmp_path / "run").exists()


def test_missing_demonstrations_are_found_before_anything_is_learnt(train, tmp_path, capsys, monkeypatch):
    """Also where they are needed for stage 2 alone."""
    save_checkpoint(tmp_path / "start", VLAPolicy.create(ModelSettings(), RobotFacts.of(PROFILE)))
    monkeypatch.setattr(algorithm, "stage_1", lambda *arguments, **named: pytest.fail("stage 1 has begun"))
    changes = tasks(expert=["drawer-open", "door-open"], rl=["drawer-open:blue"])
    assert train(init=str(tmp_path / "start"), **changes) == 2
    assert "no demonstration of the expert task door-open" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_variation_of_bodies_that_do_not_exist_is_found_first(train, tmp_path, capsys):
    world = yaml.safe_load((ROOT / "config" / "tasks" / "metaworld.yaml").read_text())
    world["variations"]["odd"] = {"colours": {"drawr": [1.0, 0.0, 0.0, 1.0]}}
    (tmp_path / "odd.yaml").write_text(yaml.safe_dump(world))
    assert train(task_file=str(tmp_path / "odd.yaml"), **tasks(rl=["drawer-open:odd"])) == 2
    assert "task_file: variation 'odd' of task 'drawer-open': colours: " in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_robot_or_with_chunks_is_refused(train, tmp_path, capsys):
    other = RobotFacts("other_arm", ("wrist",), "ee_delta", 4, 4, ("gripper",), 20.0)
    save_checkpoint(tmp_path / "other", VLAPolicy.create(ModelSettings(), other))
    save_checkpoint(tmp_path / "chunks", VLAPolicy.create(ModelSettings(chunk=4), RobotFacts.of(PROFILE)))
    assert train(init=str(tmp_path / "other")) == 2
    assert f"does not fit robot {PROFILE.name!r}" in capsys.readouterr().err
    assert train(init=str(tmp_path / "chunks")) == 2
    assert "decides 4 actions at a time" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_go_on_from_another_checkpoint_than_it_began_from(train, tmp_path, capsys, monkeypatch):
    first, second = (VLAPolicy.create(ModelSettings(), RobotFacts.of(PROFILE), seed=seed) for seed in (7, 8))
    start, learn = tmp_path / "start", algorithm.stage_1
    began = save_checkpoint(start, first)

    def stop(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(algorithm, "stage_1", stop)
    assert train(init=str(start)) == 130
    monkeypatch.setattr(algorithm, "stage_1", learn)
    now = save_checkpoint(start, second)
    capsys.readouterr()
    assert train("--resume", init=str(start)) == 2
    assert f"began from checkpoint {began}, init: {start} is {now} now" in capsys.readouterr().err
    save_checkpoint(start, first)
    assert train("--resume", init=str(start)) == 0
    assert result_of(tmp_path / "run")["steps"]["00-stage0"]["init"] == began


def test_two_processes_cannot_work_on_one_run(train, tmp_path, capsys):
    def compete(folder, settings):
        assert train("--resume") == 2
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("irevla_trainer.commands.train._train", compete)
        assert train() == 130
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert "another process" in lines[0] and "writes there" in lines[0]
    assert lines[1] == "irevla train: interrupted"
    RunFolder(tmp_path / "run", load(TrainFile, tmp_path / "train.yaml"), resume=True).close()


def plain(value):
    """Without what differs from run to run: times."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key != "seconds"}
    return value


@pytest.fixture(scope="module")
def whole(bags, tmp_path_factory):
    """Results of uninterrupted runs, by nothing but their configuration."""
    return {}


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        pytest.param(FrameFile, "write", 2, id="cache of the bags", marks=pytest.mark.slow),
        pytest.param(checkpoints, "save_tensors", 2, id="checkpoint of stage 0", marks=pytest.mark.slow),
        pytest.param(run, "write_text", 2, id="step.json", marks=pytest.mark.slow),
        pytest.param(training_state, "save_tensors", 3, id="state of stage 1"),
    ],
)
def test_a_full_disk_is_one_line_and_the_run_goes_on_after_it(
    train, tmp_path, capsys, monkeypatch, whole, module, name, call
):
    if not whole:
        assert train() == 0
        whole.update(plain(result_of(tmp_path / "run")))
        (tmp_path / "run").rename(tmp_path / "whole")
    write, calls = getattr(module, name), []

    def full(*arguments, **named):
        calls.append(arguments)
        if len(calls) >= call:
            raise OSError(errno.ENOSPC, "No space left on device", str(arguments[0]))
        return write(*arguments, **named)

    monkeypatch.setattr(module, name, full)
    assert train() == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert (
        error.strip()
        .splitlines()[-1]
        .endswith("the disk is full; nothing finished is lost, --resume goes on once there is room")
    )
    monkeypatch.setattr(module, name, write)
    assert train("--resume") == 0
    assert plain(result_of(tmp_path / "run")) == whole
    assert not list((tmp_path / "run").rglob("*.partial"))


def test_a_loss_that_is_not_finite_names_stage_and_setting(train, tmp_path, capsys, monkeypatch):
    calls, masked_mse = [], sft.masked_mse

    def spoilt(*arguments):
        calls.append(arguments)
        return masked_mse(*arguments) * (float("nan") if len(calls) == 4 else 1.0)

    monkeypatch.setattr(sft, "masked_mse", spoilt)
    assert train() == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("irevla train: stage 2 drawer-open:blue (settings stage2.sft): the loss is nan")
    assert "at step 1 of 2; lower learning_rate" in line
    state = training_state.read_state(tmp_path / "run" / "steps" / STAGES[2])
    assert state is not None and state.progress["step"] == 1
