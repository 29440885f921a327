"""`irevla eval`: its JSON, its video, and one clear line for bad input."""

from __future__ import annotations

import json

import pytest

from irevla_policy.model.checkpoint import checkpoint_version, save_checkpoint
from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.robot.profile import load_profile
from irevla_trainer.cli import main
from irevla_trainer.seeds import episode_seeds


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval") / "policy"
    save_checkpoint(folder, VLAPolicy.create(ModelSettings(), RobotFacts.of(load_profile("sawyer"))), {"seed": 0})
    return folder


def evaluate(*words):
    return main(["eval", *map(str, words)])


def test_writes_json_and_video(checkpoint, tmp_path, capsys):
    (tmp_path / "tasks.yaml").write_text("tasks: [drawer-open, 'window-close:blue']\n")
    words = ["--checkpoint", checkpoint, "--task-file", tmp_path / "tasks.yaml", "--episodes", 2, "--seed", 7]
    out = tmp_path / "result.json"
    assert evaluate(*words, "--max-steps", 3, "--json", out, "--video", tmp_path / "videos") == 0
    document = json.loads(out.read_text())
    assert document["checkpoint"]["version"] == checkpoint_version(checkpoint)
    assert document["purpose"] == "test"
    assert [(task["task"], task["variation"]) for task in document["tasks"]] == [
        ("drawer-open", ""),
        ("window-close", "blue"),
    ]
    assert document["tasks"][0]["seeds"] == list(episode_seeds("test", 2, 7))
    assert document["tasks"][0]["episodes"] == 2
    names = sorted(path.name for path in (tmp_path / "videos").iterdir())
    assert names == ["drawer-open.mp4", "window-close_blue.mp4"]
    assert "(0/2)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "drawer-opne"], "drawer-open"),
        (["--tasks", "drawer-open:upside-down"], "upside-down"),
        (["--tasks", ","], "expected at least one task"),
        (["--tasks", "drawer-open", "--episodes", "0"], "at least 1"),
        (["--tasks", "drawer-open", "--checkpoint", "nowhere"], "nowhere"),
        (["--tasks", "drawer-open", "--seed", "-1"], "do not fit"),
        (["--task-file", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_bad_input_is_one_line(checkpoint, capsys, words, message):
    default = [] if "--checkpoint" in words else ["--checkpoint", checkpoint]
    assert evaluate(*default, *words) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
