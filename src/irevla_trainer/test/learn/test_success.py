"""The success classifier: learns what the end of a success shows, and says how it does on what it has not seen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from shown_episodes import PROFILE, shown_episode, write_shown

from irevla_policy.model.checkpoint import save_checkpoint
from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.model.success import ClassifierError, Streak, SuccessClassifier, Verdict
from irevla_policy.robot.observation import Observation
from irevla_trainer.cli import main
from irevla_trainer.learn.success import LabelError, SuccessSettings, measure, train_success

SETTINGS = SuccessSettings(shows=2, unclear=3, steps=150, batch_size=32, copies=2)


def policy() -> VLAPolicy:
    return VLAPolicy.create(ModelSettings(), RobotFacts.of(PROFILE), seed=1)


@pytest.fixture(scope="module")
def trained():
    episodes = [shown_episode(seed, success=seed % 2 == 0) for seed in range(16)]
    return train_success(policy(), episodes, SETTINGS, Verdict())


def test_it_sees_successes_and_takes_no_failure_for_one(trained):
    classifier, trial = trained
    assert (trial.seen.value, trial.early.value, trial.false_alarms.value) == (1.0, 0.0, 0.0)
    assert trial.seen.episodes == trial.false_alarms.episodes == 2
    fresh = [shown_episode(seed, success=seed % 2 == 0) for seed in range(100, 120)]
    again = measure(classifier, fresh, SETTINGS)
    assert again.seen.value == 1.0 and again.early.value == again.false_alarms.value == 0.0


def test_labels_that_mean_nothing_are_not_learnt(trained):
    """The figures are those of episodes that it did not learn from."""
    episodes = [shown_episode(seed, success=False) for seed in range(24)]
    noise = [replace(e, info=replace(e.info, success="yes" if i % 2 else "no")) for i, e in enumerate(episodes)]
    _, trial = train_success(policy(), noise, SETTINGS, Verdict())
    assert trial.seen.value < 1.0


def test_a_success_takes_frames_in_a_row_of_one_episode():
    streak = Streak(Verdict(threshold=0.8, frames=2))
    assert [streak.add("a", p) for p in (0.9, 0.7, 0.8)] == [False, False, False]
    assert not streak.add("b", 0.9)
    assert streak.add("b", 0.8)


def test_the_same_seed_gives_the_same_one_and_it_survives_the_disk(trained, tmp_path: Path):
    classifier, _ = trained
    classifier.save(tmp_path / "success", {"made_of": 12})
    loaded = SuccessClassifier.load(tmp_path / "success")
    images = shown_episode(5, success=True).images["corner"]
    seen = [Observation(0, {"corner": image}, np.array(PROFILE.home), 0.0, "reach the goal") for image in images]
    state = np.zeros((len(seen), PROFILE.state_dim))
    np.testing.assert_array_equal(loaded.probability(seen, state), classifier.probability(seen, state))
    assert loaded.verdict == Verdict()


def test_labels_of_one_kind_are_refused():
    with pytest.raises(LabelError, match="1 episodes are labelled as failures, expected at least 2"):
        train_success(policy(), [shown_episode(seed, success=seed > 0) for seed in range(6)], SETTINGS, Verdict())


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for seed in range(6):
        write_shown(tmp_path / "bags" / f"episode_{seed}", seed, success=seed % 2 == 0)
    # What a classifier has said is not what one learns from.
    write_shown(tmp_path / "bags" / "called", 7, success=False, said="yes", labelled_by="classifier")
    save_checkpoint(tmp_path / "policy", policy())
    return tmp_path / "bags", tmp_path / "policy"


def test_from_bags_to_a_classifier(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bags, checkpoint = folders
    words = ["success", "--bags", bags, "--checkpoint", checkpoint, "--out", tmp_path / "success", "--robot", "sawyer"]
    words += ["--steps", 60, "--unclear", 3, "--threshold", 0.7, "--json", tmp_path / "success.json"]
    assert main([str(word) for word in words]) == 0
    document = json.loads((tmp_path / "success.json").read_text())
    assert document["episodes"] == {"successes": 3, "failures": 3}
    assert document["held_out"]["seen"]["episodes"] == document["held_out"]["false_alarms"]["episodes"] == 1
    assert SuccessClassifier.load(tmp_path / "success").verdict == Verdict(threshold=0.7, frames=2)
    assert "of the successes seen" in capsys.readouterr().out
    assert main([str(word) for word in words]) == 2
    assert "exists; choose another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("--threshold", "1.5"), "options: threshold: must be"),
        (("--robot", "panda"), "does not fit robot 'panda'"),
        (("--task", "unheard"), "no episode to learn from"),
    ],
)
def test_bad_input_is_named(
    folders: tuple[Path, Path], tmp_path: Path, capsys, change: tuple[str, str], complaint: str
):
    bags, checkpoint = folders
    words = ["success", "--bags", bags, "--checkpoint", checkpoint, "--out", tmp_path / "success", "--robot", "sawyer"]
    assert main([*map(str, words), *change]) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "success").exists()


@pytest.mark.parametrize("damage", ["missing", "head", "format"])
def test_a_damaged_one_is_refused(trained, tmp_path: Path, damage: str):
    folder = tmp_path / "success"
    trained[0].save(folder, {})
    if damage == "missing":
        (folder / "success.json").unlink()
    elif damage == "head":
        (folder / "success.safetensors").write_bytes(b"nothing")
    else:
        (folder / "success.json").write_text('{"format_version": 9}')
    with pytest.raises(ClassifierError, match=str(folder)):
        SuccessClassifier.load(folder)
