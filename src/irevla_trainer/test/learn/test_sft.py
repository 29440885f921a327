"""Supervised fine-tuning learns, is reproducible, and survives being stopped."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch

from irevla_trainer.learn.prefetch import prefetch
from irevla_trainer.learn.settings import SftSettings
from irevla_trainer.learn.sft import ResumeError, TrainingError, evaluate_loss, masked_mse, train
from irevla_trainer.learn.training_state import TrainingStateError, read_state, write_state

QUICK = SftSettings(steps=12, batch_size=8, warmup_steps=2, shift=1, report_every=1, save_every=1e-6)


@pytest.fixture(autouse=True)
def heeded_interrupts():
    """SIGINT as at a terminal: tests that a script runs in the background inherit that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def weights(policy):
    return {name: value.clone() for name, value in policy.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def stop_at(step):
    def progress(now, total, figures):
        if now == step:
            os.kill(os.getpid(), signal.SIGINT)

    return progress


def test_learns_a_handful_of_decisions(decisions, new_policy, tmp_path):
    policy = new_policy()
    settings = SftSettings(steps=90, batch_size=12, shift=0, learning_rate=1e-3, warmup_steps=10)
    before = evaluate_loss(policy, decisions)
    result = train(policy, decisions, None, settings, tmp_path)
    assert result.steps == 90
    assert evaluate_loss(policy, decisions) < 0.1 * before


@pytest.mark.slow
def test_same_seed_same_weights(decisions, new_policy, tmp_path):
    results = []
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        policy = new_policy()
        train(policy, decisions, None, dataclasses.replace(QUICK, seed=seed), tmp_path / name)
        results.append(weights(policy))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


@pytest.mark.parametrize(
    ("average", "precision"),
    [pytest.param(0.0, "auto", marks=pytest.mark.slow), (0.9, "auto"), (0.9, "bfloat16")],  # the last as on a GPU
)
def test_resumed_run_equals_uninterrupted(decisions, new_policy, tmp_path, average, precision):
    settings = dataclasses.replace(QUICK, average=average, precision=precision, steps=6)
    whole = new_policy()
    train(whole, decisions, decisions, settings, tmp_path / "whole")

    with pytest.raises(KeyboardInterrupt):
        train(new_policy(), decisions, decisions, settings, tmp_path / "parts", stop_at(3))
    assert (tmp_path / "parts" / "state.safetensors").exists()
    resumed = new_policy(seed=9)  # whatever it starts from, the state decides
    result = train(resumed, decisions, decisions, settings, tmp_path / "parts")

    assert result.steps == 6
    assert same(weights(whole), weights(resumed))
    # The state stays until its owner has written the checkpoint: what was lost on the way there comes again.
    again = new_policy(seed=3)
    assert train(again, decisions, decisions, settings, tmp_path / "parts") == result
    assert same(weights(whole), weights(again))
    lines = [[json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()] for name in ("whole", "parts")]
    assert [line["step"] for line in lines[0]] == list(range(1, 7))
    assert [line["loss"] for line in lines[0]] == [line["loss"] for line in lines[1]]


@pytest.mark.slow
def test_steps_that_come_again_after_a_crash_are_reported_once(decisions, new_policy, tmp_path):
    settings = dataclasses.replace(QUICK, save_every=1000.0)

    class Crash(BaseException):
        pass

    def crash(step, total, figures):
        if step == 7:
            raise Crash

    with pytest.raises(KeyboardInterrupt):
        train(new_policy(), decisions, None, settings, tmp_path, stop_at(4))
    with pytest.raises(Crash):
        train(new_policy(), decisions, None, settings, tmp_path, crash)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')
    train(new_policy(), decisions, None, settings, tmp_path)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").open()] == list(range(1, 13))


def test_heads_alone_leave_every_weight_of_the_backbone(decisions, new_policy, tmp_path):
    policy, quick = new_policy(), dataclasses.replace(QUICK, steps=4)
    before = weights(policy)
    train(policy, decisions, None, dataclasses.replace(quick, trains="heads"), tmp_path / "heads")
    changed = {name for name, value in weights(policy).items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("action_head.") for name in changed)
    # The next stage trains the model again.
    train(policy, decisions, None, quick, tmp_path / "model")
    after = weights(policy)
    assert any(name.startswith("backbone.") and not torch.equal(after[name], before[name]) for name in before)


def test_interrupted_handlers_are_put_back(decisions, new_policy, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(new_policy(), decisions, None, QUICK, tmp_path, stop_at(1))
    assert signal.getsignal(signal.SIGINT) is before


def test_ignored_interrupts_do_not_end_it_early(decisions, new_policy, tmp_path):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    result = train(new_policy(), decisions, None, dataclasses.replace(QUICK, steps=3), tmp_path, stop_at(1))
    assert result.steps == 3


def test_state_of_another_run_is_refused(decisions, new_policy, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(new_policy(), decisions, None, QUICK, tmp_path, stop_at(2))
    with pytest.raises(ResumeError, match="other settings"):
        train(new_policy(), decisions, None, dataclasses.replace(QUICK, learning_rate=1e-4), tmp_path)
    with pytest.raises(ResumeError, match="other start"):
        train(new_policy(), decisions, None, QUICK, tmp_path, start="0123456789ab")
    decisions.episodes[0].action[0] += 1
    with pytest.raises(ResumeError, match="other data"):
        train(new_policy(), decisions, None, QUICK, tmp_path)


def test_a_state_from_before_the_start_was_part_of_it_goes_on(decisions, new_policy, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(new_policy(), decisions, None, QUICK, tmp_path, stop_at(2))
    state = read_state(tmp_path)
    identity = {key: value for key, value in state.identity.items() if key != "start"}
    write_state(tmp_path, dataclasses.replace(state, identity=identity))
    assert train(new_policy(), decisions, None, QUICK, tmp_path).steps == QUICK.steps


def test_damaged_state_is_named(decisions, new_policy, tmp_path):
    (tmp_path / "state.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(TrainingStateError, match=r"state\.safetensors"):
        train(new_policy(), decisions, None, QUICK, tmp_path)


def test_loss_that_is_not_finite_stops_with_the_last_good_state(decisions, new_policy, tmp_path):
    from irevla_trainer.learn.training_state import read_state

    policy = new_policy()

    def spoil(step, total, figures):
        if step == 4:
            policy.action_head.register_forward_hook(lambda module, inputs, output: output * float("nan"))

    with pytest.raises(TrainingError, match=r"loss is nan .* at step [45] of 12; lower learning_rate"):
        train(policy, decisions, None, QUICK, tmp_path, spoil)
    state = read_state(tmp_path)
    assert state is not None
    assert state.progress["step"] in (4, 5)
    assert all(torch.isfinite(tensor).all() for tensor in state.tensors.values())


def test_no_decisions(decisions, new_policy, tmp_path):
    from irevla_trainer.learn.decisions import Decisions

    with pytest.raises(ResumeError, match="no decisions"):
        train(new_policy(), Decisions([], ["front"]), None, QUICK, tmp_path)


def test_masked_steps_do_not_count():
    predicted, target = torch.zeros(2, 2, 1), torch.tensor([[[1.0], [5.0]], [[2.0], [9.0]]])
    mask = torch.tensor([[True, False], [True, False]])
    assert float(masked_mse(predicted, target, mask)) == pytest.approx((1 + 4) / 2)


def test_backbone_stays_when_tuning_is_frozen(decisions, tmp_path):
    from irevla_policy.model.config import ModelSettings, RobotFacts
    from irevla_policy.model.policy import VLAPolicy

    robot = RobotFacts("test_arm", ("front",), "ee_delta", 2, 1, ("gripper",), 20.0)
    policy = VLAPolicy.create(ModelSettings(tuning="frozen"), robot, decisions.fit_normaliser())
    before = weights(policy.backbone)
    train(policy, decisions, None, QUICK, tmp_path)
    assert same(before, weights(policy.backbone))


def test_prefetch_keeps_order_raises_in_place_and_ends_its_thread():
    assert list(prefetch(iter(range(50)))) == list(range(50))

    def failing():
        yield 1
        raise OSError("disk gone")

    drawn = prefetch(failing())
    assert next(drawn) == 1
    with pytest.raises(OSError, match="disk gone"):
        next(drawn)

    endless = prefetch(iter(int, 1))
    next(endless)
    endless.close()
    time.sleep(0.01)
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.mark.slow
def test_validation_does_not_disturb_training(decisions, new_policy, tmp_path):
    settings = dataclasses.replace(QUICK, average=0.9, validate_every=3)
    with_validation, without = new_policy(), new_policy()
    train(with_validation, decisions, decisions, settings, tmp_path / "a")
    train(without, decisions, None, settings, tmp_path / "b")
    assert same(weights(with_validation), weights(without))
    lines = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").open()]
    assert [line["step"] for line in lines if "validation_loss" in line] == [3, 6, 9, 12]
    assert np.isfinite([line["loss"] for line in lines]).all()
