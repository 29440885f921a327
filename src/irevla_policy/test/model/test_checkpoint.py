"""A checkpoint gives back the same policy, and says what is wrong with one that does not."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest

from irevla_policy.model import checkpoint
from irevla_policy.model.checkpoint import (
    CheckpointError,
    check_fits,
    checkpoint_version,
    form_of,
    load_checkpoint,
    load_twin,
    read_provenance,
    save_checkpoint,
)
from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.robot.profile import load_profile


@pytest.fixture
def policy(robot, normaliser):
    return VLAPolicy.create(ModelSettings(), robot, normaliser, seed=1)


@pytest.fixture
def stored(policy, tmp_path):
    save_checkpoint(tmp_path / "policy", policy, {"seed": 1})
    return tmp_path / "policy"


def test_loaded_policy_acts_bit_for_bit_the_same(policy, stored, observe):
    observations, states = [observe(1), observe(2, "close the window")], np.random.default_rng(0).normal(size=(2, 4))
    loaded = load_checkpoint(stored)
    assert np.array_equal(loaded.act(observations, states), policy.act(observations, states))
    assert loaded.settings == policy.settings
    assert loaded.robot == policy.robot
    assert read_provenance(stored) == {"seed": 1}


@pytest.mark.parametrize("tuning", ["lora", "frozen"])
def test_a_backbone_that_came_from_chance_is_kept_whole(tuning, robot, tmp_path, observe):
    settings = ModelSettings(tuning=tuning)
    first, second = (VLAPolicy.create(settings, robot, seed=seed) for seed in (1, 2))
    observations, states = [observe(1)], np.zeros((1, 4))
    acted = [policy.act(observations, states) for policy in (first, second)]
    for name, policy in (("first", first), ("second", second)):
        save_checkpoint(tmp_path / name, policy)
    loaded = load_checkpoint(tmp_path / "first")
    assert loaded.backbone.tuning == tuning
    assert np.array_equal(loaded.act(observations, states), acted[0])
    assert save_checkpoint(tmp_path / "again", loaded) == checkpoint_version(tmp_path / "first")
    assert form_of(tmp_path / "first") == form_of(tmp_path / "second")
    assert np.array_equal(load_twin(tmp_path / "second", loaded).act(observations, states), acted[1])
    assert np.array_equal(loaded.act(observations, states), acted[0])


def test_a_twin_acts_as_its_checkpoint_says_and_leaves_the_first_alone(policy, stored, robot, tmp_path, observe):
    other = VLAPolicy.create(ModelSettings(), robot, seed=2)
    save_checkpoint(tmp_path / "other", other)
    observations, states = [observe(1), observe(2, "close the window")], np.random.default_rng(0).normal(size=(2, 4))
    before = policy.act(observations, states)
    pauses = []
    assert form_of(stored) == form_of(tmp_path / "other")
    twin = load_twin(tmp_path / "other", policy, lambda: pauses.append(1))
    assert np.array_equal(twin.act(observations, states), other.act(observations, states))
    assert np.array_equal(policy.act(observations, states), before)
    assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in policy.parameters()}
    assert len(pauses) >= 3


def test_another_form_is_seen(stored, robot, tmp_path):
    save_checkpoint(tmp_path / "wider", VLAPolicy.create(ModelSettings(head_width=64), robot))
    assert form_of(stored) != form_of(tmp_path / "wider")
    assert form_of(stored) != form_of(tmp_path / "missing")
    tokenizer = stored / "vlm" / "tokenizer.json"
    shutil.copytree(stored, tmp_path / "words")
    (tmp_path / "words" / "vlm" / "tokenizer.json").write_text(tokenizer.read_text() + " ")
    assert form_of(stored) != form_of(tmp_path / "words")


def test_version_is_of_the_content_alone(policy, stored, tmp_path):
    version = checkpoint_version(stored)
    assert len(version) == 12
    assert set(version) <= set("0123456789abcdef")
    for path in stored.rglob("*"):
        os.utime(path, (1, 1))
    copy = tmp_path / "elsewhere"
    shutil.copytree(stored, copy)
    (copy / "provenance.json").write_text('{"evaluation": 0.9}')
    assert checkpoint_version(stored) == checkpoint_version(copy) == version
    assert save_checkpoint(tmp_path / "again", load_checkpoint(stored)) == version
    policy.action_head.mlp[-1].bias.data += 1e-3
    assert save_checkpoint(tmp_path / "other", policy) != version


def test_no_pickle_inside(stored):
    kinds = {path.suffix for path in stored.rglob("*") if path.is_file()}
    assert kinds <= {".json", ".safetensors", ".txt", ".jinja"}, kinds


def test_replacing_keeps_no_leftovers(policy, stored):
    policy.action_head.mlp[-1].bias.data += 1
    save_checkpoint(stored, policy)
    assert os.listdir(stored.parent) == ["policy"]


def test_failed_save_leaves_the_old_checkpoint(policy, stored, monkeypatch):
    version = checkpoint_version(stored)

    def full_disk(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_tensors", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(stored, policy)
    assert checkpoint_version(stored) == version
    assert os.listdir(stored.parent) == ["policy"]


def test_foreign_folder_is_not_replaced(policy, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="exists and is no checkpoint"):
        save_checkpoint(tmp_path / "photos", policy)
    assert (tmp_path / "photos" / "cat.png").exists()


@pytest.mark.parametrize(
    "name", ["config.json", "normalisation.json", "heads.safetensors", "backbone.safetensors", "vlm/config.json"]
)
def test_missing_file_is_named(stored, name):
    (stored / name).unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.").rpartition("/")[2]):
        load_checkpoint(stored)


@pytest.mark.parametrize("name", ["config.json", "normalisation.json", "heads.safetensors", "backbone.safetensors"])
def test_truncated_file_is_named(stored, name):
    content = (stored / name).read_bytes()
    (stored / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_checkpoint(stored)


def change(path, **entries):
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_other_format_version(stored):
    change(stored / "config.json", format_version=99)
    with pytest.raises(CheckpointError, match="format version 99, this version of irevla reads 1"):
        load_checkpoint(stored)


def test_unknown_setting(stored):
    document = json.loads((stored / "config.json").read_text())
    change(stored / "config.json", model=document["model"] | {"magic": 1})
    with pytest.raises(CheckpointError, match=r"config\.json: model: unknown key 'magic'"):
        load_checkpoint(stored)


def test_weights_of_another_shape(stored):
    document = json.loads((stored / "config.json").read_text())
    change(stored / "config.json", model=document["model"] | {"head_width": 64})
    with pytest.raises(
        CheckpointError, match=r"heads\.safetensors: weight 'mlp\.0\.bias' has shape \[256\], expected \[64\]"
    ):
        load_checkpoint(stored)


def test_normalisation_of_another_size(stored):
    document = json.loads((stored / "normalisation.json").read_text())
    shorter = {key: values[:3] for key, values in document["action"].items()}
    change(stored / "normalisation.json", action=shorter)
    with pytest.raises(CheckpointError, match=r"normalisation\.json: action has 3 values, config\.json says 4"):
        load_checkpoint(stored)


def test_no_such_folder(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint folder"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        checkpoint_version(tmp_path)


def test_reference_whose_base_has_gone(backbones, robot, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(backbones("blip2"), base)
    settings = ModelSettings(backbone=str(base), learner_slots=4)
    save_checkpoint(tmp_path / "policy", VLAPolicy.create(settings, robot))
    shutil.rmtree(base)
    with pytest.raises(CheckpointError, match="a folder that exists"):
        load_checkpoint(tmp_path / "policy")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action_space": "joint_delta", "action_dim": 8}, "action_space is joint_delta, the robot's ee_delta"),
        ({"action_dim": 3}, "action_dim is 3, the robot's 4"),
        ({"name": "panda"}, "name is panda, the robot's metaworld_sawyer"),
        ({"cameras": ("left", "right")}, "cameras is left, right, the robot's corner"),
        ({"state_dim": 9}, "state_dim is 9, the robot's 4"),
    ],
)
def test_check_fits_names_the_difference(changes, message):
    profile = load_profile("sawyer")
    robot = dataclasses.replace(RobotFacts.of(profile), training_hash="", **changes)
    with pytest.raises(CheckpointError, match=message):
        check_fits("policy", robot, profile)


def test_check_fits_accepts_its_own_robot():
    profile = load_profile("sawyer")
    check_fits("policy", RobotFacts.of(profile), profile)
    changed = dataclasses.replace(profile, ee_delta_scale=0.05)
    with pytest.raises(CheckpointError, match="ee_delta_scale"):
        check_fits("policy", RobotFacts.of(profile), changed)
