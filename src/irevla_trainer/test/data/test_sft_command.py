"""`irevla sft` from bags to a checkpoint that loads, and one clear line for each kind of bad input."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from sample_episodes import PROFILE, write_episode

from irevla_policy.lock import FolderLock
from irevla_policy.model import checkpoint
from irevla_policy.model.checkpoint import checkpoint_version, load_checkpoint, read_provenance
from irevla_policy.robot.observation import Observation
from irevla_trainer.cli import main


@pytest.fixture
def bags(tmp_path):
    folder = tmp_path / "bags"
    for index in range(4):
        write_episode(folder / f"episode_{index}", steps=6)
    write_episode(folder / "failed", steps=6, success="no")
    return folder


def sft(*words):
    return main(["sft", *map(str, words)])


def test_from_bags_to_a_policy(bags, tmp_path, capsys):
    out = tmp_path / "policy"
    report = tmp_path / "report.json"
    assert sft("--bags", bags, "--out", out, "--steps", 3, "--json", report, "--seed", 4) == 0
    policy = load_checkpoint(out)
    assert policy.robot.name == PROFILE.name
    seen = Observation(0, {"corner": np.zeros((96, 96, 3), np.uint8)}, np.array(PROFILE.home), 0.1, "reach the goal")
    assert np.isfinite(policy.act([seen], np.zeros((1, PROFILE.state_dim)))).all()

    document = json.loads(report.read_text())
    assert document["checkpoint"]["version"] == checkpoint_version(out)
    assert document["result"]["steps"] == 3
    assert document["data"]["episodes"] == 4
    assert document["data"]["tasks"] == {"reach": 4}
    left_out = [bag["left_out"] for bag in document["data"]["bags"] if bag["left_out"]]
    assert left_out == ["not a success"]
    provenance = read_provenance(out)
    assert provenance["seed"] == 4
    assert provenance["data"]["decisions"] == 24
    lines = (tmp_path / "policy.training" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 3
    assert out.name in capsys.readouterr().out


def test_goes_on_from_a_checkpoint_with_its_normalisation(bags, tmp_path):
    assert sft("--bags", bags, "--out", tmp_path / "one", "--steps", 2) == 0
    more = tmp_path / "more"
    write_episode(more / "long", steps=12)
    assert sft("--bags", more, "--init", tmp_path / "one", "--out", tmp_path / "two", "--steps", 2) == 0
    one, two = ((tmp_path / name / "normalisation.json").read_text() for name in ("one", "two"))
    assert one == two
    assert read_provenance(tmp_path / "two")["init"] == checkpoint_version(tmp_path / "one")


def test_an_interrupted_training_does_not_go_on_from_another_checkpoint(bags, tmp_path, capsys, monkeypatch):
    for name, seed in (("one", 1), ("two", 2)):
        assert sft("--bags", bags, "--out", tmp_path / name, "--steps", 1, "--seed", seed) == 0
    words = ["--bags", bags, "--out", tmp_path / "three", "--steps", 2]

    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_checkpoint", interrupt)
        assert sft(*words, "--init", tmp_path / "one") == 130
    for other in (["--init", tmp_path / "two"], []):
        capsys.readouterr()
        assert sft(*words, *other) == 2
        assert "holds the state of a run with other start" in capsys.readouterr().err
    assert sft(*words, "--init", tmp_path / "one") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bags", "nowhere"], "nowhere"),
        (["--task", "fly"], "no episode to learn from"),
        (["--init", "nowhere"], "no such checkpoint folder"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--robot", "r2d2"], "no robot profile 'r2d2'"),
        (["--backbone", "missing folder"], "expected 'tiny' or 'small', a folder that exists, or a hub id"),
        (["--epochs", "-1"], "epochs: must be above 0"),
        (["--init", "x", "--backbone", "tiny"], "--init already decides the backbone"),
        (["--device", "abacus"], "device 'abacus' cannot be used"),
        (["--threads", "0"], "--threads: expected at least 1, found 0"),
    ],
)
def test_bad_input_is_one_line(bags, tmp_path, capsys, words, message):
    default = [] if "--bags" in words else ["--bags", bags]
    assert sft(*default, "--out", tmp_path / "policy", *words) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert message in errors[-1]
    assert not (tmp_path / "policy").exists()


def test_unknown_setting_names_file_and_key(bags, tmp_path, capsys):
    (tmp_path / "sft.yaml").write_text("training: {learnin_rate: 0.1}\n")
    assert sft("--bags", bags, "--out", tmp_path / "policy", "--config", tmp_path / "sft.yaml") == 2
    message = capsys.readouterr().err
    assert "sft.yaml:1: training: unknown key 'learnin_rate'" in message


def test_checkpoint_of_another_robot(bags, tmp_path, capsys):
    assert sft("--bags", bags, "--out", tmp_path / "one", "--steps", 1) == 0
    path = tmp_path / "one" / "config.json"
    document = json.loads(path.read_text())
    document["robot"]["name"] = "panda"
    path.write_text(json.dumps(document))
    assert sft("--bags", bags, "--init", tmp_path / "one", "--out", tmp_path / "two") == 2
    assert "does not fit robot 'metaworld_sawyer'" in capsys.readouterr().err


def test_one_process_trains_a_checkpoint(bags, tmp_path, capsys):
    lock = FolderLock(tmp_path / "policy.training")
    assert sft("--bags", bags, "--out", tmp_path / "policy", "--steps", 2) == 2
    assert f"policy.training: another process ({os.getpid()}) writes there" in capsys.readouterr().err
    lock.release()
    assert sft("--bags", bags, "--out", tmp_path / "policy", "--steps", 2) == 0


def test_a_target_that_cannot_be_written_is_refused_before_training(bags, tmp_path, capsys):
    (tmp_path / "text").write_text("precious")
    assert sft("--bags", bags, "--out", tmp_path / "text", "--steps", 2) == 2
    assert "text is a file" in capsys.readouterr().err
    assert sft("--bags", bags, "--out", bags, "--steps", 2) == 2
    assert "something else than a checkpoint" in capsys.readouterr().err
    assert (tmp_path / "text").read_text() == "precious"
    assert not list(tmp_path.glob("*.training"))


def test_a_finished_checkpoint_is_replaced_only_when_asked(bags, tmp_path, capsys):
    out = tmp_path / "policy"
    assert sft("--bags", bags, "--out", out, "--steps", 2) == 0
    version = checkpoint_version(out)
    assert sft("--bags", bags, "--out", out, "--steps", 3) == 2
    assert "is a finished checkpoint" in capsys.readouterr().err
    assert checkpoint_version(out) == version
    assert sft("--bags", bags, "--out", out, "--steps", 3, "--overwrite") == 0
    assert checkpoint_version(out) != version


def test_an_aborted_bag_without_what_an_episode_holds_is_left_out_and_no_problem(bags, tmp_path, capsys):
    write_episode(bags / "stopped", steps=6, omit=("/irevla/command", PROFILE.command.topic), state="aborted")
    report = tmp_path / "report.json"
    assert sft("--bags", bags, "--out", tmp_path / "policy", "--steps", 2, "--json", report) == 0
    accounts = {bag["episode_id"]: bag for bag in json.loads(report.read_text())["data"]["bags"]}
    assert "the recording was aborted" in accounts["stopped"]["left_out"]
    assert not accounts["stopped"]["problem"]
