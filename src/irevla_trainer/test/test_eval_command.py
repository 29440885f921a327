"""`irevla eval`: its JSON, its video, and one clear line for bad input."""

from __future__ import annotations

import json
import re

import imageio_ffmpeg
import numpy as np
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


def test_a_task_file_can_define_variations_of_its_own(checkpoint, tmp_path):
    file = tmp_path / "tasks.yaml"
    file.write_text(
        "{tasks: ['drawer-open:flat'], variations: {flat: {scale: [1.2, 1, 0.8], table_rgba: [0, 1, 0, 1]}}}"
    )
    words = ["--checkpoint", checkpoint, "--task-file", file, "--episodes", 1, "--max-steps", 2]
    out, videos = tmp_path / "result.json", tmp_path / "videos"
    assert evaluate(*words, "--json", out, "--video", videos) == 0
    (task,) = json.loads(out.read_text())["tasks"]
    assert (task["task"], task["variation"], task["episodes"]) == ("drawer-open", "flat", 1)
    film = imageio_ffmpeg.read_frames(videos / "drawer-open_flat.mp4")
    next(film)
    red, green, blue = np.frombuffer(next(film), np.uint8).reshape(-1, 3).astype(int).T
    assert np.mean((green - red > 60) & (green - blue > 60)) > 0.2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{tasks: [drawer-open], variations: {flat: {scale: [1, 3, 1]}}}",
            "variations.flat: scale[1]: must be in [0.5, 2]",
        ),
        (
            "{tasks: [drawer-open], variations: {flat: {scale: [1, 1]}}}",
            "variations.flat: scale: expected 3 values, found 2",
        ),
        ("{tasks: [drawer-open], variations: {flat: {colour: red}}}", "variations.flat: unknown key 'colour'"),
        ("{tasks: [drawer-open], variations: {blue: {scale: 2}}}", "variations.blue: config/tasks/metaworld.yaml has"),
        ("{tasks: ['drawer-open:flta'], variations: {flat: {}}}", "tasks: no variation 'flta' of task 'drawer-open'"),
        ("{tasks: [drawer-opn]}", "tasks: no task 'drawer-opn'"),
    ],
)
def test_errors_of_a_task_file_name_file_and_key(checkpoint, tmp_path, capsys, text, message):
    file = tmp_path / "tasks.yaml"
    file.write_text(text)
    assert evaluate("--checkpoint", checkpoint, "--task-file", file) == 2
    error = capsys.readouterr().err
    assert re.search(rf"{re.escape(str(file))}(:1)?: {re.escape(message)}", error), error  # with its line where known


def test_a_variation_of_a_body_that_is_not_there_is_one_line(checkpoint, tmp_path, capsys):
    file = tmp_path / "tasks.yaml"
    file.write_text("{tasks: ['drawer-open:odd'], variations: {odd: {bodies: [drawr], scale: 1.1}}}")
    assert evaluate("--checkpoint", checkpoint, "--task-file", file, "--episodes", 1) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "variation 'odd' of task 'drawer-open': bodies: the scene has no body 'drawr'" in error


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
