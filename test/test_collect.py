"""`irevla collect`: the expert's episodes through the whole graph, and on from where they were."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from irevla_policy.recording.recovery import unfinished
from irevla_policy.robot.profile import load_profile
from irevla_trainer import cli
from irevla_trainer.data.dataset import Wanted, load_dataset
from irevla_trainer.ros.collecting import Collection


def collect(folder: Path, episodes: int, *further: str) -> list[str]:
    return ["collect", "--task", "drawer-open", "--episodes", str(episodes), "--out", str(folder), *further]


def test_bags_of_the_whole_graph(tmp_path: Path) -> None:
    folder, answer = tmp_path / "bags", tmp_path / "answer.json"
    assert cli.main(collect(folder, 2, "--json", str(answer))) == 0
    document = json.loads(answer.read_text())
    assert [(episode["seed"], episode["new"]) for episode in document["episodes"]] == [(0, True), (1, True)]
    data = load_dataset([folder], load_profile("sawyer"), Wanted(success_only=False))
    for episode, report, listed in zip(data.episodes, data.reports, document["episodes"], strict=True):
        # The graph's first episode may still run when the first recording starts, and on a slow machine an observation
        # is sent again and its decision answered again.
        assert not report.problem and set(report.dropped) <= {"repeated stamp", "before the reset"}
        # Every decision that the simulator counted lies in the bag with image, state, action and instruction.
        assert len(episode) == episode.info.steps == listed["steps"]
        assert (episode.info.source, episode.info.seed) == ("expert", listed["seed"])
        assert (episode.info.success == "yes") == listed["success"]
        assert set(episode.instructions) == {episode.info.instruction}
    # The same command records nothing again, and a larger one only what is missing.
    assert cli.main(collect(folder, 2, "--json", str(answer))) == 0
    assert not any(episode["new"] for episode in json.loads(answer.read_text())["episodes"])


@pytest.mark.slow
def test_bags_of_the_kitchen(tmp_path: Path) -> None:
    folder = tmp_path / "bags"
    words = ["collect", "--world", "kitchen", "--task", "light-on", "--variation", "red", "--episodes", "1"]
    assert cli.main([*words, "--out", str(folder)]) == 0
    profile = load_profile("panda_kitchen")
    (episode,) = load_dataset([folder], profile).episodes
    assert (episode.info.world, episode.info.task, episode.info.variation) == ("kitchen", "light-on", "red")
    assert (episode.info.robot, episode.info.success) == ("kitchen_panda", "yes")
    assert episode.action.shape == (episode.info.steps, profile.action_dim)
    assert np.abs(episode.action[:, :-1]).max() <= 1.0  # rad/s
    # The arm did what the actions say.
    moved = np.diff(episode.state[:, :7], axis=0)
    said = episode.action[:-1, :7] / profile.control_rate
    assert np.corrcoef(moved.ravel(), said.ravel())[0, 1] > 0.8
    # Who names the world needs not know its arm.
    assert cli.main(["inspect", "--world", "kitchen", str(folder)]) == 0
    assert cli.main(["inspect", str(folder)]) == 1


@pytest.mark.slow
def test_goes_on_after_an_interruption(tmp_path: Path) -> None:
    folder = tmp_path / "bags"
    words = [sys.executable, "-m", "irevla_trainer.cli", *collect(folder, 4)]
    running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 90
    while not (folder / "drawer-open_000000").is_dir() and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=15)
    assert running.returncode in (130, 0), said
    assert not unfinished(folder)
    assert cli.main(collect(folder, 4)) == 0
    data = load_dataset([folder], load_profile("sawyer"), Wanted(success_only=False))
    finished = [episode for episode in data.episodes if episode.info.state == "finished"]
    assert {episode.info.seed for episode in finished} == {0, 1, 2, 3}
    assert all((folder / f"drawer-open_{seed:06d}").is_dir() for seed in range(4))


@pytest.mark.parametrize(
    "words",
    [
        ["--task", "juggle", "--episodes", "1"],
        ["--task", "drawer-open", "--episodes", "0"],
        ["--task", "drawer-open", "--episodes", "1", "--variation", "upside-down"],
        ["--task", "drawer-open", "--episodes", "1", "--noise", "3"],
    ],
)
def test_wrong_arguments_are_one_line(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["collect", *words, "--out", str(tmp_path / "bags")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_names_follow_from_tasks_and_seeds(tmp_path: Path) -> None:
    wanted = Collection(("a", "b"), 2, tmp_path, seed=7, variation="blue")
    assert [name for _, _, name in wanted.names()] == [
        "a-blue_000007",
        "a-blue_000008",
        "b-blue_000007",
        "b-blue_000008",
    ]
