"""The default model: shapes, determinism, freezing, and that it can learn where a thing is."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
import torch

from irevla_policy.model.config import ModelSettings
from irevla_policy.model.heads import CriticHead, TokenLearner
from irevla_policy.model.policy import VLAPolicy


@pytest.fixture
def policy(robot, normaliser):
    return VLAPolicy.create(ModelSettings(), robot, normaliser, seed=1)


@pytest.mark.parametrize("chunk", [1, 5])
def test_shapes(robot, observe, chunk):
    policy = VLAPolicy.create(ModelSettings(chunk=chunk), robot)
    action = policy.act([observe(i) for i in range(3)], np.zeros((3, 4)))
    assert action.shape == (3, chunk, 4)
    assert action.dtype == np.float64


def test_same_seed_same_policy(robot, observe):
    one, same, other = (VLAPolicy.create(ModelSettings(), robot, seed=seed) for seed in (7, 7, 8))
    seen = [observe(1)]
    assert np.array_equal(one.act(seen, np.zeros((1, 4))), same.act(seen, np.zeros((1, 4))))
    assert not np.array_equal(one.act(seen, np.zeros((1, 4))), other.act(seen, np.zeros((1, 4))))


def test_making_a_policy_leaves_the_global_generator_alone(robot):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    VLAPolicy.create(ModelSettings(), robot, seed=5)
    assert torch.equal(torch.rand(3), expected)


def test_acting_is_deterministic_also_in_another_thread(policy, observe):
    seen, state = [observe(3)], np.ones((1, 4))
    first = policy.act(seen, state)
    results = []
    thread = threading.Thread(target=lambda: results.append(policy.act(seen, state)))
    thread.start()
    thread.join()
    assert np.array_equal(policy.act(seen, state), first)
    assert np.array_equal(results[0], first)


def test_batch_decides_as_its_members(policy, observe):
    observations = [observe(1, "open"), observe(2, "press the red button from above now"), observe(3)]
    states = np.random.default_rng(0).normal(size=(3, 4))
    alone = [policy.act([seen], state[None])[0] for seen, state in zip(observations, states, strict=True)]
    np.testing.assert_allclose(policy.act(observations, states), alone, atol=1e-6)


def test_any_image_size_and_any_text(policy, observe):
    assert policy.act([observe(1, "¿Wo ist 台?", size=224)], np.zeros((1, 4))).shape == (1, 1, 4)
    assert policy.act([observe(1, "", size=33)], np.zeros((1, 4))).shape == (1, 1, 4)


def test_several_cameras_are_told_apart(robot, observe):
    robot = dataclasses.replace(robot, cameras=("front", "wrist"))
    policy = VLAPolicy.create(ModelSettings(), robot)
    seen = observe(1, cameras=("front", "wrist"))
    swapped = dataclasses.replace(seen, images={"front": seen.images["wrist"], "wrist": seen.images["front"]})
    action = policy.act([seen], np.zeros((1, 4)))
    assert not np.allclose(action, policy.act([swapped], np.zeros((1, 4))), atol=1e-7)


def test_state_is_used_or_not(robot, observe):
    for use_state in (True, False):
        policy = VLAPolicy.create(ModelSettings(use_state=use_state), robot)
        same = np.allclose(policy.act([observe(1)], np.zeros((1, 4))), policy.act([observe(1)], np.ones((1, 4))))
        assert same is not use_state


def test_latent_is_enough_for_the_head(policy, observe):
    observations, states = [observe(1), observe(2)], np.ones((2, 4))
    with torch.no_grad():
        latent = policy.latent(policy.prepare(observations, states))
        assert latent.hidden.shape[::2] == (2, policy.backbone.width)
        direct = policy(policy.prepare(observations, states))
        assert torch.equal(policy.action_from_latent(latent), direct)


def test_frozen_backbone_gets_no_gradient_and_never_moves(policy, observe):
    policy.freeze_backbone()
    policy.train()
    assert not policy.backbone.training
    assert policy.action_head.training
    before = {name: p.clone() for name, p in policy.backbone.named_parameters()}
    head = policy.action_head.mlp[-1].weight.clone()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2)
    policy(policy.prepare([observe(1)], np.zeros((1, 4)))).square().mean().backward()
    assert all(p.grad is None for p in policy.backbone.parameters())
    optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in policy.backbone.named_parameters())
    assert not torch.equal(policy.action_head.mlp[-1].weight, head)
    policy.unfreeze_backbone()
    policy(policy.prepare([observe(1)], np.zeros((1, 4)))).square().mean().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.backbone.parameters())


def test_critic_has_the_structure_of_the_action_head(policy, observe):
    critic = policy.new_critic()
    assert isinstance(critic, CriticHead)
    latent = policy.latent(policy.prepare([observe(1), observe(2)], np.zeros((2, 4))))
    assert critic(latent.hidden, latent.mask, latent.state).shape == (2,)


def test_token_learner_ignores_what_is_masked():
    torch.manual_seed(0)
    learner = TokenLearner(16, 3, slots=4)
    hidden, state = torch.randn(2, 6, 16), torch.randn(2, 3)
    mask = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    changed = hidden.clone()
    changed[1, 3:] = 99.0
    torch.testing.assert_close(learner(hidden, mask, state), learner(changed, mask, state))
    torch.testing.assert_close(learner(hidden[1:, :3], mask[1:, :3], state[1:])[0], learner(hidden, mask, state)[1])


@pytest.mark.parametrize("state_dim", [0, 3])
def test_token_learner_equals_attention_written_out(state_dim):
    """Normalised tokens, their keys and their values, all of them made."""
    torch.manual_seed(0)
    learner = TokenLearner(8, state_dim, slots=2)
    for parameter in learner.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    hidden, state = torch.randn(3, 5, 8), torch.randn(3, state_dim)
    mask = torch.tensor([[True] * 5, [True] * 2 + [False] * 3, [False, True, True, False, True]])
    for row in range(3):
        normed = learner.norm(hidden[row, mask[row]])
        key, value = learner.key(normed), learner.value(normed)
        shift = learner.state_query(state[row]) if state_dim else torch.zeros(8)
        parts = []
        for slot in range(2):
            columns = slice(4 * slot, 4 * slot + 4)
            weight = torch.softmax(key[:, columns] @ (learner.query[slot] + shift[columns]) / 2.0, dim=0)
            parts.append((weight[:, None] * value[:, columns]).sum(0))
        torch.testing.assert_close(learner(hidden, mask, state)[row], learner.out(torch.cat(parts)))


@pytest.mark.parametrize(
    ("images", "state", "message"),
    [
        ({"side": np.zeros((96, 96, 3), np.uint8)}, np.zeros((1, 4)), "camera 'front' is missing; found side"),
        ({"front": np.zeros((96, 96, 3), np.uint8)}, np.zeros((1, 3)), "state of 4 values, found 3"),
    ],
)
def test_inputs_that_do_not_fit(policy, observe, images, state, message):
    seen = dataclasses.replace(observe(1), images=images)
    with pytest.raises(ValueError, match=message):
        policy.act([seen], state)
