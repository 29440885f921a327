"""Worlds in worker processes, and rollouts of a policy in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.robot.profile import load_profile
from irevla_policy.sim.tasks import TaskError
from irevla_trainer.rl.latents import ImageStore, LatentStore
from irevla_trainer.rl.rollout import Rollout, collect
from irevla_trainer.rl.worlds import EpisodeRequest, Seen, Stepped, Worlds

PROFILE = load_profile("sawyer")
STEPS = 4
REQUESTS = [EpisodeRequest("reach", "", 3), EpisodeRequest("drawer-open", "blue", 4), EpisodeRequest("reach", "", 5)]


@pytest.fixture(scope="module")
def worlds() -> Iterator[Worlds]:
    with Worlds(PROFILE, count=2, max_steps=STEPS) as worlds:
        yield worlds


@pytest.fixture(scope="module")
def policy() -> VLAPolicy:
    torch.set_num_threads(1)
    return VLAPolicy.create(ModelSettings(), RobotFacts.of(PROFILE), seed=0)


def rollout(worlds, policy, requests=REQUESTS, std=0.3, seed=7, store=None) -> Rollout:
    return collect(worlds, requests, policy, store or LatentStore(64), std, seed)


def assert_same(one: Rollout, other: Rollout) -> None:
    for name in ("action", "mean", "reward", "terminated", "ended"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    for index in ("index", "next_index"):
        first, second = (part.observations.latent(getattr(part, index)) for part in (one, other))
        for name in ("hidden", "mask", "state"):
            assert torch.equal(getattr(first, name), getattr(second, name)), (index, name)
    assert one.success == other.success


@pytest.mark.slow
def test_same_requests_same_rollout_whatever_ran_before(worlds, policy):
    first = rollout(worlds, policy)
    rollout(worlds, policy, [EpisodeRequest("push", "", 8)], seed=1)
    assert_same(first, rollout(worlds, policy))
    with Worlds(PROFILE, count=2, max_steps=STEPS) as fresh:
        assert_same(first, rollout(fresh, policy))


def test_noise_follows_from_its_seed(worlds, policy):
    def noise(part: Rollout) -> np.ndarray:
        return (part.action - part.mean) / part.std

    one, narrow, other = (
        noise(rollout(worlds, policy, std=std, seed=seed)) for std, seed in ((0.3, 7), (0.1, 7), (0.3, 8))
    )
    np.testing.assert_allclose(one, narrow, atol=1e-4)
    assert np.abs(one - other).max() > 0.5
    assert 0.5 < one.std() < 1.5
    # That of an episode does not depend on the others.
    alone = noise(rollout(worlds, policy, REQUESTS[1:2]))
    np.testing.assert_allclose(alone, one[STEPS : 2 * STEPS], atol=1e-4)


@pytest.mark.parametrize("correlation", [pytest.param(0.0, marks=pytest.mark.slow), 0.7])
def test_noise_of_decisions_in_a_row_is_correlated_and_as_large_as_any(policy, correlation):
    steps, index = 100, list(range(16))

    def long_episodes(requests, decide):
        for step in range(steps):
            decide(replace(seen_at(0, index), step=[step] * len(index)))
            last = step == steps - 1
            yield Stepped(index, np.zeros(16, bool), np.full(16, last), seen_at(1, index) if last else None)

    requests = [EpisodeRequest("reach", "", seed) for seed in index]
    worlds = SimpleNamespace(episodes=long_episodes)
    part = collect(worlds, requests, policy, LatentStore(2000), 0.3, 7, correlation)
    noise = ((part.action - part.mean) / 0.3).reshape(16, steps, -1)
    assert noise.std() == pytest.approx(1.0, abs=0.08)
    assert noise[:, 0].std() == pytest.approx(1.0, abs=0.25)
    for apart in (1, 2):
        products = noise[:, apart:] * noise[:, :-apart]
        assert products.mean() / noise.var() == pytest.approx(correlation**apart, abs=0.05)


def test_no_noise_takes_the_mean(worlds, policy):
    part = rollout(worlds, policy, REQUESTS[:1], std=0.0)
    assert np.array_equal(part.action, part.mean)


def test_given_up_episodes_go_on_in_a_final_observation(worlds, policy):
    part = rollout(worlds, policy)
    assert len(part) == 3 * STEPS
    assert part.success == [False] * 3 and not part.reward.any() and not part.terminated.any()
    assert np.flatnonzero(part.ended).tolist() == [3, 7, 11]
    assert np.array_equal(part.next_index[~part.ended], part.index[1:][~part.ended[:-1]])
    final = part.next_index[part.ended]
    assert len(part.observations) == 3 * (STEPS + 1)
    assert not set(final) & set(part.index) and len(set(final)) == 3
    last, after = (part.observations.latent(index) for index in (part.index[part.ended], final))
    assert not torch.equal(last.hidden, after.hidden)


def test_latents_are_those_the_policy_acted_on(worlds, policy):
    part = rollout(worlds, policy)
    with torch.no_grad():
        again = policy.action_from_latent(part.observations.latent(part.index))[:, 0].numpy()
    np.testing.assert_allclose(again, part.mean, atol=1e-5)


def test_stored_images_lead_to_the_same_rollout(worlds, policy):
    latents, images = rollout(worlds, policy), rollout(worlds, policy, store=ImageStore(policy))
    # Stored latents are rounded to half precision, here and when the policy acts.
    np.testing.assert_allclose(latents.mean[::STEPS], images.mean[::STEPS], atol=1e-2)
    with torch.no_grad():
        again = policy.action_from_latent(images.observations.latent(images.index))[:, 0].numpy()
    np.testing.assert_allclose(again, images.mean, atol=1e-5)


def seen_at(step: int, index: list[int]) -> Seen:
    """Images and states say which episode and step they are of."""
    images = np.stack([np.full((96, 96, 3), 10 * one + step, np.uint8) for one in index])
    state = np.stack([np.full(PROFILE.state_dim, one + step / 10, np.float32) for one in index])
    return Seen(index, [step] * len(index), {"corner": images}, ["reach"] * len(index), state)


def scripted(requests, decide):
    """Episode 0 succeeds in its second decision, episode 1 is given up after its third."""
    no, yes = np.array([False, False]), np.array([True, False])
    decide(seen_at(0, [0, 1]))
    yield Stepped([0, 1], no, no, None)
    decide(seen_at(1, [0, 1]))
    yield Stepped([0, 1], yes, no, seen_at(2, [0]))
    decide(seen_at(2, [1]))
    yield Stepped([1], no[:1], yes[:1], seen_at(3, [1]))


def test_a_success_ends_in_itself_and_is_kept(policy):
    worlds = SimpleNamespace(episodes=scripted)
    part = rollout(worlds, policy, REQUESTS[:2], std=20.0)
    assert part.success == [True, False] and part.success_rate == 0.5
    assert part.reward.tolist() == [0, 1, 0, 0, 0]
    assert part.terminated.tolist() == [False, True, False, False, False]
    assert part.ended.tolist() == [False, True, False, False, True]
    states = part.observations.latent(part.next_index).state
    normalised = policy.normaliser.normalise_state(np.array([[0.1], [0.1], [1.1], [1.2], [1.3]]).repeat(4, 1))
    np.testing.assert_allclose(states.numpy()[:, :4], normalised[:, :4], atol=1e-6)

    (kept,) = part.trajectories
    assert kept.request == REQUESTS[0]
    assert kept.images["corner"][:, 0, 0, 0].tolist() == [0, 1]
    assert kept.instructions == ["reach", "reach"]
    raw = policy.normaliser.denormalise_action
    np.testing.assert_allclose(kept.executed, raw(part.action[:2]).clip(-1, 1), atol=1e-6)
    np.testing.assert_allclose(kept.intended, raw(part.mean[:2]).clip(-1, 1), atol=1e-6)
    assert np.abs(kept.executed).max() == 1.0


def test_what_somebody_did_instead_is_what_is_learnt_from(policy):
    done = np.array([[0.5, -0.5, 0.25, 1.0]], dtype=np.float32)[:, : PROFILE.action_dim]
    nobody = np.full_like(done, np.nan)

    def helped(requests, decide):
        """Episode 0 is helped in its second decision."""
        for number, stepped in enumerate(scripted(requests, decide)):
            instead = [done if number == 1 and index == 0 else nobody for index in stepped.index]
            yield replace(stepped, instead=np.concatenate(instead))

    worlds = SimpleNamespace(episodes=helped)
    part, alone = (rollout(SimpleNamespace(episodes=one), policy, REQUESTS[:2]) for one in (helped, scripted))
    assert rollout(worlds, policy, REQUESTS[:2]).intervened == part.intervened == [True, False]
    assert alone.intervened == [False, False]
    np.testing.assert_allclose(policy.normaliser.denormalise_action(part.action[1]), done[0], atol=1e-5)
    untouched = [0, 2, 3, 4]
    assert (part.action[untouched] == alone.action[untouched]).all() and (part.mean == alone.mean).all()
    (kept,) = part.trajectories
    assert (kept.executed[1] == done[0]).all() and (kept.intended[1] == done[0]).all()
    assert kept.intervened.tolist() == [False, True, *[False] * (len(kept.state) - 2)]
    assert (kept.intended[0] == alone.trajectories[0].intended[0]).all()


def test_unknown_task_is_refused_before_anything_runs(worlds, policy):
    with pytest.raises(TaskError, match="nowhere"):
        rollout(worlds, policy, [REQUESTS[0], EpisodeRequest("nowhere", "", 0)])


def test_chunks_of_actions_are_refused(worlds):
    chunked = VLAPolicy.create(ModelSettings(chunk=2), RobotFacts.of(PROFILE), seed=0)
    with pytest.raises(ValueError, match="one action at a time, the policy predicts 2"):
        rollout(worlds, chunked)
