"""Stage 1: what learns, what is kept, when it ends, and that it goes on where it was."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from stand_in_worlds import STEPS, StandInWorlds

from irevla_policy.errors import RunError
from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.robot.profile import load_profile
from irevla_trainer.evaluate import EvaluationTask
from irevla_trainer.learn.training_state import read_state
from irevla_trainer.loop import stage1
from irevla_trainer.loop.replay import Replay
from irevla_trainer.loop.settings import Stage1Settings
from irevla_trainer.rl.algorithm import DivergedError
from irevla_trainer.rl.ppo import Ppo
from irevla_trainer.rl.settings import PpoSettings, SacfdSettings

PROFILE = load_profile("sawyer")
TASK = EvaluationTask("drawer-open", "blue")
PPO = PpoSettings(episodes=8, warmup=0, epochs=1, minibatch=8)
QUICK = Stage1Settings(decisions=4 * 8 * STEPS, validation_episodes=4, validate_every=2, successes=5, ppo=PPO)
SACFD = replace(
    QUICK,
    algorithm="sacfd",
    sacfd=SacfdSettings(
        episodes=8, demonstrations=6, capacity=2048, batch_size=8, updates_per_decision=0.2, warmup=2, critics=2
    ),
)


class AllSucceed(StandInWorlds):
    success = staticmethod(lambda request, actions: True)


class NoneSucceeds(StandInWorlds):
    success = staticmethod(lambda request, actions: False)


@pytest.fixture
def policy():
    return VLAPolicy.create(ModelSettings(), RobotFacts.of(PROFILE), seed=1)


def run(policy, folder, settings=QUICK, worlds=StandInWorlds, report=lambda figures: None):
    folder.mkdir(exist_ok=True)
    return stage1.stage_1(policy, TASK, worlds(PROFILE, 2), settings, 5, folder, report)


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before, after):
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


@pytest.mark.parametrize(
    ("trains", "parts"), [("heads", {"action_head"}), ("model", {"action_head", "backbone"})], ids=["heads", "model"]
)
def test_heads_leave_every_weight_of_the_backbone_and_ppo_replay_does_not(policy, tmp_path, monkeypatch, trains, parts):
    before = weights(policy)
    # The last head is the best.
    monkeypatch.setattr(stage1, "evaluate", scripted([0.0, 0.5, 0.9, 0.9]))
    learning = replace(PPO, backbone_learning_rate=1e-4)
    run(policy, tmp_path / "run", replace(QUICK, trains=trains, ppo=learning))
    assert {name.split(".")[0] for name in changed(before, weights(policy))} == parts


def scripted(successes, seen=lambda policy: None):
    """An evaluation with the given outcomes."""
    from irevla_trainer.evaluate import EpisodeOutcome, TaskResult

    left = iter(successes)

    def evaluate(policy, worlds, tasks, seeds):
        seen(policy)
        good = round(next(left) * 10)
        return [TaskResult(tasks[0], [EpisodeOutcome(number, number < good, 1) for number in range(10)])]

    return evaluate


@pytest.mark.parametrize(("validations", "best"), [([0.2, 0.9, 0.3], 1), ([0.8, 0.1, 0.2], 0), ([0.2, 0.5, 0.5], 2)])
def test_the_best_validated_head_is_kept_and_of_equals_the_latest(policy, tmp_path, monkeypatch, validations, best):
    heads = []
    monkeypatch.setattr(stage1, "evaluate", scripted(validations, lambda policy: heads.append(weights(policy))))
    account = run(policy, tmp_path / "run")
    assert len(heads) == 3
    assert changed(heads[0], heads[1]) and changed(heads[1], heads[2])
    assert not changed(heads[best], weights(policy))
    assert (account["before"], account["after"]) == (validations[0], validations[best])


def test_the_last_weights_can_be_had_instead_of_the_best(policy, tmp_path, monkeypatch):
    validations = iter([0.2, 0.9, 0.1])
    monkeypatch.setattr(stage1._Stage1, "_validate", lambda self, worlds: next(validations))
    last = []
    settings = replace(QUICK, validate_every=2)
    run(policy, tmp_path / "stage", settings, report=lambda figures: last.append(weights(policy.action_head)))
    assert changed(weights(policy.action_head), last[-1]), "the best is another one"
    stage1.take_last(policy, tmp_path / "stage")
    assert not changed(weights(policy.action_head), last[-1])
    with pytest.raises(RunError, match="nothing: no state of a stage 1"):
        stage1.take_last(policy, tmp_path / "nothing")


def test_it_ends_when_the_rollouts_have_converged(policy, tmp_path):
    account = run(policy, tmp_path / "run", replace(QUICK, patience=2), AllSucceed)
    assert account["ended"] == "converged"
    assert (account["episodes"], account["successes"], account["decisions"]) == (16, 16, 16 * STEPS)
    assert account["kept_successes"] == 5


def test_without_a_success_it_ends_with_its_decisions(policy, tmp_path):
    account = run(policy, tmp_path / "run", QUICK, NoneSucceeds)
    assert account["ended"] == "decisions spent"
    assert (account["episodes"], account["successes"], account["kept_successes"]) == (32, 0, 0)
    assert not Replay(tmp_path / "run" / "successes", 5, "intended").episodes()


def test_successes_are_stored_with_what_they_were(policy, tmp_path):
    run(policy, tmp_path / "run", replace(QUICK, successes=200), AllSucceed)
    episodes = Replay(tmp_path / "run" / "successes", 200, "intended").episodes()
    assert len(episodes) == 16
    assert {episode.task for episode in episodes} == {"drawer-open:blue"}
    for episode in episodes:
        assert len(episode.action) == len(episode.state) == len(episode.images["corner"]) == STEPS
    assert len({episode.seed for episode in episodes}) == 16


def test_successes_have_the_actions_that_are_to_be_imitated(policy, tmp_path, monkeypatch):
    fast = replace(QUICK, successes=200, ppo=replace(PPO, actor_learning_rate=1e-2, kl_stop=1e9))
    found = {}
    for imitate in ("final", "explored", "intended", "executed"):
        learnt = copy.deepcopy(policy)
        # The head after the second iteration is the best, not the last one.
        monkeypatch.setattr(stage1, "evaluate", scripted([0.0, 0.9, 0.5, 0.5]))
        run(learnt, tmp_path / imitate, replace(fast, imitate=imitate), AllSucceed)
        found[imitate] = Replay(tmp_path / imitate / "successes", 200, imitate).episodes()
    for final, explored, intended, executed in zip(*found.values(), strict=True):
        seen = [
            SimpleNamespace(images={"corner": final.images["corner"][step]}, instruction=text)
            for step, text in enumerate(final.instructions)
        ]
        acts = np.clip(learnt.act(seen, final.state)[:, 0], -1.0, 1.0)
        assert np.allclose(final.action, acts, atol=1e-3)
        assert not np.allclose(intended.action, acts, atol=1e-3)
        noise = executed.action - intended.action
        assert np.abs(noise).max() > 0.1
        assert np.allclose(explored.action - final.action, noise, atol=1e-5)


class Stopped(BaseException):
    pass


@pytest.mark.parametrize(
    ("settings", "iteration"),
    [
        pytest.param(QUICK, 1, id="ppo-1"),
        pytest.param(QUICK, 3, id="ppo-3", marks=pytest.mark.slow),
        pytest.param(replace(QUICK, trains="model"), 2, id="model-2", marks=pytest.mark.slow),
        pytest.param(SACFD, 2, id="sacfd-2"),
    ],
)
def test_it_ends_the_same_wherever_it_was_stopped(policy, tmp_path, settings, iteration):
    def stop(figures):
        if figures["iteration"] == iteration:
            raise Stopped  # after the successes of the iteration were stored, and before its state

    start = weights(policy)
    whole = run(policy, tmp_path / "whole", settings)
    end = weights(policy)
    policy.load_state_dict(start)
    with pytest.raises(Stopped):
        run(policy, tmp_path / "parts", settings, report=stop)
    policy.load_state_dict(start)
    assert run(policy, tmp_path / "parts", settings) == whole
    assert not changed(end, weights(policy))
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "parts")]
    assert lines[0] == lines[1]
    seeds = [
        [episode.seed for episode in Replay(tmp_path / name / "successes", 5, "intended").episodes()]
        for name in ("whole", "parts")
    ]
    assert seeds[0] == seeds[1]
    # Once more at its end, as after a crash while the checkpoint was written.
    assert run(policy, tmp_path / "parts", settings) == whole


@pytest.mark.parametrize("how", ["loss", "weight"])
def test_divergence_is_one_clear_line_and_keeps_the_state_before(policy, tmp_path, monkeypatch, how):
    learn = Ppo.learn

    def diverge(self, rollout, seed):
        if self.iteration == 2 and how == "loss":
            raise DivergedError("the loss of PPO is nan in iteration 2")
        figures = learn(self, rollout, seed)
        if self.iteration == 3:
            next(self.policy.action_head.parameters()).data.fill_(float("nan"))
        return figures

    monkeypatch.setattr(Ppo, "learn", diverge)
    with pytest.raises(RunError) as raised:
        run(policy, tmp_path / "run")
    message = str(raised.value)
    assert message.startswith("stage 1 of drawer-open:blue, iteration 3: ")
    assert f"lower stage1.ppo.actor_learning_rate (now {PPO.actor_learning_rate:g})" in message
    state = read_state(tmp_path / "run")
    assert state is not None and state.progress["iteration"] == 2
    assert all(torch.isfinite(tensor).all() for tensor in state.tensors.values())
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [0, 1, 2]
