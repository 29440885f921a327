"""`irevla bench rl`: the same network everywhere, every update made, and figures from known times."""

from __future__ import annotations

import dataclasses
import mmap
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.heads import Head
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.sim.tasks import KITCHEN, METAWORLD, WORLDS
from irevla_trainer.bench import rl_blip2
from irevla_trainer.bench.rl import TARGETS, Sizes, cost, run, variants
from irevla_trainer.bench.rl_domain import DOMAINS
from irevla_trainer.bench.rl_loader import Loaders, compare_loaders
from irevla_trainer.bench.rl_memory import PeakMemory
from irevla_trainer.bench.rl_samples import as_rollout, demonstrations, samples
from irevla_trainer.bench.rl_stage1 import Turn, take_turns
from irevla_trainer.bench.rl_store import spill
from irevla_trainer.bench.rl_updates import VARIANTS, Updates, Workload, make_variant
from irevla_trainer.cli import main
from irevla_trainer.rl.advantage import generalised_advantages
from irevla_trainer.rl.latents import LatentStore, encode
from irevla_trainer.rl.ppo import Ppo
from irevla_trainer.rl.settings import PpoSettings
from irevla_trainer.rl.worlds import Worlds

DOMAIN = DOMAINS[METAWORLD]


def loud(head: Head) -> None:
    """Outputs that differ: those of an untrained head are so small that a wrong network would give the same."""
    last = head.mlp[-1]
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.normal_(last.weight, std=0.3)


@pytest.fixture
def policy() -> VLAPolicy:
    policy = VLAPolicy.create(ModelSettings(), RobotFacts.of(DOMAIN.profile))
    loud(policy.action_head)
    policy.freeze_backbone()
    return policy


def test_sb3_computes_the_same_means_values_and_advantages(policy: VLAPolicy) -> None:
    from irevla_trainer.bench.rl_sb3 import observations, sb3_ppo

    seen, settings, critic = samples(DOMAIN, 80), PpoSettings(minibatch=40, epochs=1), policy.new_critic()
    loud(critic)
    with torch.no_grad():
        latent = encode(policy, seen.images, seen.instructions, seen.state)
        mean = policy.action_from_latent(latent)[:, 0]
        value = critic(latent.hidden, latent.mask, latent.state)
        rollout = as_rollout(policy, seen, LatentStore(80), settings.noise)
        theirs = sb3_ppo(policy, critic, seen, rollout, settings)
        stored = theirs.policy.obs_to_tensor(observations(policy, seen))[0]
        distribution: Any = theirs.policy.get_distribution(stored).distribution
        their_value = theirs.policy.predict_values(stored)[:, 0]
    assert len(set(seen.instructions)) > 1 and not latent.mask.all(), "the mask has to be on trial"
    torch.testing.assert_close(distribution.mean, mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(distribution.stddev, torch.full_like(mean, settings.noise))
    torch.testing.assert_close(their_value, value, rtol=1e-4, atol=1e-4)
    # stable-baselines3 does not know given-up episodes: the first, a success, is where both must agree.
    done = int(np.flatnonzero(rollout.ended)[0]) + 1
    following = np.append(value[1:].numpy(), 0.0)
    advantage, _ = generalised_advantages(
        rollout.reward, value.numpy(), following, rollout.terminated, rollout.ended, settings.gamma, settings.gae_lambda
    )
    assert np.allclose(theirs.rollout_buffer.advantages[:done, 0], advantage[:done], atol=1e-3)


def test_sb3_updates_the_heads_and_leaves_the_backbone_alone(policy: VLAPolicy) -> None:
    from irevla_trainer.bench.rl_sb3 import sb3_ppo

    seen, settings = samples(DOMAIN, 64), PpoSettings(minibatch=32, epochs=2)
    rollout = as_rollout(policy, seen, LatentStore(64), settings.noise)
    theirs = sb3_ppo(policy, policy.new_critic(), seen, rollout, settings)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    theirs.train()
    changed = {
        name.split(".")[0] for name, value in policy.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"action_head"}


@pytest.mark.parametrize(("name", "world"), [*((name, METAWORLD) for name in VARIANTS), ("heads", KITCHEN)])
def test_every_variant_makes_the_same_updates_again_and_again(name: str, world: str) -> None:
    workload = Workload.without_stops(DOMAINS[world], 48, epochs=2, device="cpu", threads=1, minibatch=24)
    update = make_variant(name, workload)
    update()
    update()


def test_latents_on_disk_teach_the_same(tmp_path: Path) -> None:
    workload = Workload.without_stops(DOMAIN, 64, epochs=2, device="cpu", threads=1, minibatch=32)
    spilled = spill(workload, tmp_path)
    assert spilled.difference == 0.0
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 64 * spilled.bytes_per_decision


@pytest.mark.parametrize(
    ("world", "task", "camera", "state", "steps"),
    [(METAWORLD, "drawer-open", "corner", 4, 60), (KITCHEN, "microwave-open", "kitchen", 8, 280)],
)
def test_samples_are_those_of_the_domain(world: str, task: str, camera: str, state: int, steps: int) -> None:
    domain = DOMAINS[world]
    assert ForkingPickler.dumps(domain), "it goes to processes of its own"
    seen = samples(domain, 70)
    assert list(seen.images) == [camera] and seen.state.shape == (70, state)
    assert set(seen.instructions) <= set(domain.tasks.task(task).instructions)
    assert domain.steps == steps and domain.observations(2) == 2 * (steps + 1)
    assert len(demonstrations(domain, 70)) == 70


@pytest.mark.slow
def test_episodes_are_as_long_as_the_domain_says() -> None:
    domain = dataclasses.replace(DOMAINS[KITCHEN], max_steps=3)
    policy = VLAPolicy.create(ModelSettings(), RobotFacts.of(domain.profile))
    with Worlds(domain.profile, 1, domain.tasks, domain.max_steps) as worlds:
        kinds = take_turns(policy, worlds, Ppo(policy, PpoSettings(episodes=2)), domain, rounds=1, episodes=2)
    assert [turn.decisions for turns in kinds for turn in turns] == [6, 6]


def test_peak_memory_is_that_since_the_reset() -> None:
    memory = PeakMemory(torch.device("cpu"))
    _touch(96 * 2**20)
    memory.reset()
    low = memory.peak()
    _touch(64 * 2**20)
    assert 56 * 2**20 <= memory.peak() - low <= 80 * 2**20


def _touch(size: int) -> None:
    """Use fresh memory for a moment: an array might get what the allocator has kept, which is resident already."""
    with mmap.mmap(-1, size) as pages:
        for place in range(0, size, mmap.PAGESIZE):
            pages[place] = 1


@pytest.mark.slow
def test_loaders_are_compared_round_by_round() -> None:
    loaders = compare_loaders(DOMAIN, steps=2, rounds=2, device="cpu")
    assert len(loaders.ours) == len(loaders.plain) == 2 and min(*loaders.ours, *loaders.plain) > 0.0
    assert Loaders((9.0, 100.0, 50.0), (10.0, 100.0, 40.0)).ratio == 1.0


def test_the_large_model_has_its_size() -> None:
    tokens, width, parameters = rl_blip2.shape(DOMAIN)
    assert (width, tokens > 32) == (2560, True)
    assert 3.6e9 < parameters < 3.9e9


def test_figures_follow_from_the_times() -> None:
    figures = cost([Turn(100, 1.0), Turn(200, 2.0)], [Turn(100, 1.0, 0.2, 3)])
    assert figures["cost_over_unavoidable"] == pytest.approx(1.2)
    assert figures["update_ms_per_decision"] == pytest.approx(2.0)
    taken = {"heads": Updates(1e-4, 2**20), "sb3": Updates(5e-4, 2**21), "whole_model": Updates(1e-3, 2**22)}
    figures = variants(taken, collecting=1e-3, epochs=10)
    assert figures["update_speedup_vs_sb3"] == pytest.approx(5.0)
    assert figures["speedup_vs_whole_model_ppo"] == pytest.approx(10.0)
    assert figures["heads_decisions_per_s"] == pytest.approx(500.0)
    assert figures["whole_model_peak_mib"] == 4.0


def test_a_device_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "rl", "--device", "nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err


def test_an_unknown_world_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "rl", "--world", "moon"])
    assert ended.value.code == 2
    assert "invalid choice: 'moon'" in capsys.readouterr().err


def test_other_benchmarks_have_no_world(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "expert", "--world", KITCHEN]) == 2
    assert "'expert' has no option --world" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("world", WORLDS)
def test_all_in_one_run(world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    domain = dataclasses.replace(DOMAINS[world], max_steps=30)
    monkeypatch.setitem(DOMAINS, world, domain)
    sizes = Sizes(worlds=2, episodes=2, rounds=1, decisions=48, minibatch=24, updates=1, sft_steps=4, sft_rounds=1)
    result = run(sizes=sizes, world=world)
    assert set(result.targets) == set(TARGETS) <= set(result.figures)
    assert all(np.isfinite(value) for value in result.figures.values())
    assert result.figures["blip2_stage1_gib"] < 24.0 and result.details["blip2"]["how"].startswith("calculated")
    assert dataclasses.asdict(sizes).items() <= result.details.items()
    assert result.details["domain"] == {"world": world, "task": domain.task, "max_steps": 30}
    stored = 2 * 31 * result.figures["latent_bytes_per_decision"]
    assert result.figures["rollout_latents_mib"] == pytest.approx(stored / 2**20)
    assert result.figures["stage1_peak_mib"] > 0.0
