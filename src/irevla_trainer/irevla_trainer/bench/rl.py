"""`irevla bench rl`: what stage 1 costs, beside what it cannot do without and beside other ways to do the same.

cost_over_unavoidable       collector and updates, over the collector alone: step, rendering, one forward pass
update_speedup_vs_sb3       time of the same updates in stable-baselines3, over ours
speedup_vs_whole_model_ppo  time of PPO on all weights, over that of PPO on the heads, for the same decisions
spilled_difference          between heads that learnt from latents on disk and from latents in memory
sft_loader_ratio            samples per second of supervised training, over a plain loop on batches in memory
blip2_stage1_gib            memory of stage 1 with a BLIP-2-sized model
rollout_latents_mib         stored latents of a whole rollout whose episodes are all as long as they may be
stage1_peak_mib             what rehearsal, rollouts and updates take at their peak; on a GPU with the policy itself
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.device import require_device
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.sim.tasks import KITCHEN, METAWORLD
from irevla_trainer.bench import rl_blip2
from irevla_trainer.bench.result import BenchResult, Target
from irevla_trainer.bench.rl_domain import DOMAINS, Domain
from irevla_trainer.bench.rl_loader import compare_loaders
from irevla_trainer.bench.rl_memory import PeakMemory
from irevla_trainer.bench.rl_samples import demonstrations
from irevla_trainer.bench.rl_stage1 import Turn, per_decision, take_turns
from irevla_trainer.bench.rl_store import spill
from irevla_trainer.bench.rl_updates import Updates, Workload, compare
from irevla_trainer.rl.ppo import Ppo
from irevla_trainer.rl.settings import PpoSettings
from irevla_trainer.rl.worlds import Worlds

TARGETS = {
    "cost_over_unavoidable": Target("<=", 1.25),
    "update_speedup_vs_sb3": Target(">=", 3.0),
    "speedup_vs_whole_model_ppo": Target(">=", 5.0),
    "spilled_difference": Target("<=", 0.0),
    "sft_loader_ratio": Target(">=", 0.95),
    "blip2_stage1_gib": Target("<=", 24.0),
}


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        worlds: Of the collector.
        episodes: Of a rollout.
        rounds: Rollouts with and without updates, each.
        decisions: From which the variants of PPO learn.
        epochs: Of their updates.
        minibatch: Of their updates.
        updates: Of all epochs, by each variant.
        sft_steps: Of supervised training and of the plain loop, in every round.
        sft_rounds: Of both.
        blip2_episodes: Of a rollout of the BLIP-2-sized model on a GPU.
    """

    worlds: int = 16
    episodes: int = PpoSettings().episodes
    rounds: int = 2
    decisions: int = 1024
    epochs: int = 2
    minibatch: int = PpoSettings().minibatch
    updates: int = 2
    sft_steps: int = 60
    sft_rounds: int = 8
    blip2_episodes: int = 16

    @classmethod
    def of(cls, world: str, gpu: bool) -> Sizes:
        """What suits a world and a device; on a GPU supervised updates are too short for sixty of them."""
        # As `irevla bench kitchen` has them; each takes long.
        sizes = cls(episodes=24, rounds=1) if world == KITCHEN else cls()
        return dataclasses.replace(sizes, sft_steps=200, sft_rounds=4) if gpu else sizes


def run(device: str = "cpu", threads: int = 1, world: str = METAWORLD, sizes: Sizes | None = None) -> BenchResult:
    """Measure.

    Args:
        device: Torch device of the models.
        threads: Of the arithmetic in reinforcement learning, of all variants; with more than one the model and the
            worlds get in each other's way. Supervised training has torch's choice.
        world: Of `DOMAINS`, where episodes run.
        sizes: How much; what suits the device by default.
    """
    domain = DOMAINS[world]
    gpu = require_device(device).type == "cuda"
    sizes = sizes or Sizes.of(world, gpu)
    chosen = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        result = _reinforcement(domain, device, gpu, threads, sizes)
    finally:
        torch.set_num_threads(chosen)
    _say("supervised training, ours and a plain loop")
    loaders = compare_loaders(domain, sizes.sft_steps, sizes.sft_rounds, device)
    result.figures |= {
        "sft_loader_ratio": loaders.ratio,
        "sft_samples_per_s": float(np.median(loaders.ours)),
        "plain_loop_samples_per_s": float(np.median(loaders.plain)),
    }
    result.details["sft_rounds_samples_per_s"] = dataclasses.asdict(loaders)
    ordered = [*TARGETS, *(name for name in result.figures if name not in TARGETS)]
    result.figures = {name: result.figures[name] for name in ordered}
    result.details["domain"] = {**dataclasses.asdict(domain), "max_steps": domain.steps}
    result.details |= {"device": device, "threads": threads, "sft_threads": chosen, **dataclasses.asdict(sizes)}
    return result


def _say(part: str) -> None:
    """Tell what is measured now, to whoever waits."""
    print(f"bench rl: {part}", file=sys.stderr, flush=True)


def _reinforcement(domain: Domain, device: str, gpu: bool, threads: int, sizes: Sizes) -> BenchResult:
    """All but supervised training."""
    figures: dict[str, float] = {}
    details: dict[str, Any] = {}
    profile = domain.profile
    _say("stage 1 with and without updates")
    with Worlds(profile, sizes.worlds, domain.tasks, domain.max_steps) as worlds:
        policy = VLAPolicy.create(ModelSettings(), RobotFacts.of(profile)).to(device)
        rehearsed = demonstrations(domain, sizes.decisions)
        # Only now: what the policy's libraries take is not part of stage 1.
        memory = PeakMemory(torch.device(device))
        memory.reset()
        algorithm = Ppo(policy, PpoSettings(episodes=sizes.episodes), rehearsed=rehearsed)
        without, with_updates = take_turns(policy, worlds, algorithm, domain, sizes.rounds, sizes.episodes)
        stage1_bytes = memory.peak()
        _say("stage 1 of a BLIP-2-sized model")
        if gpu:
            large, details["blip2"] = rl_blip2.on_gpu(domain, worlds, device, sizes.blip2_episodes)
    if not gpu:
        large, details["blip2"] = rl_blip2.calculated(domain, sizes.episodes, sizes.decisions)
    figures |= cost(without, with_updates)
    details["turns"] = {
        name: [dataclasses.asdict(turn) for turn in turns]
        for name, turns in (("without_updates", without), ("with_updates", with_updates))
    }
    _say("three variants of PPO's updates")
    workload = Workload.without_stops(domain, sizes.decisions, sizes.epochs, device, threads, sizes.minibatch)
    figures |= variants(compare(workload, sizes.updates), per_decision(without), PpoSettings().epochs)
    with tempfile.TemporaryDirectory(prefix="irevla-rl-") as folder:
        spilled = spill(workload, Path(folder))
    figures |= {
        "latent_bytes_per_decision": spilled.bytes_per_decision,
        "spilled_difference": spilled.difference,
        "rollout_latents_mib": domain.observations(sizes.episodes) * spilled.bytes_per_decision / 2**20,
        "stage1_peak_mib": stage1_bytes / 2**20,
    }
    details["spilled"] = dataclasses.asdict(spilled)
    return BenchResult("rl", figures | large, TARGETS, details)


def cost(without: list[Turn], with_updates: list[Turn]) -> dict[str, float]:
    """Figures of stage 1.

    Args:
        without: Rollouts without updates.
        with_updates: With them.
    """
    return {
        "cost_over_unavoidable": per_decision(with_updates) / per_decision(without),
        "unavoidable_ms_per_decision": 1e3 * per_decision(without),
        "stage1_ms_per_decision": 1e3 * per_decision(with_updates),
        "update_ms_per_decision": 1e3 * per_decision(with_updates, lambda turn: turn.learning),
        "stage1_decisions_per_s": 1.0 / per_decision(with_updates),
    }


def variants(updates: Mapping[str, Updates], collecting: float, epochs: int) -> dict[str, float]:
    """Figures of the variants of PPO.

    Args:
        updates: By variant.
        collecting: Time of the collector per decision, s: the same for all.
        epochs: For which decisions per second are added up.
    """
    ours = updates["heads"].seconds
    figures = {
        "update_speedup_vs_sb3": updates["sb3"].seconds / ours,
        "speedup_vs_whole_model_ppo": updates["whole_model"].seconds / ours,
    }
    for name, taken in updates.items():
        figures[f"{name}_update_us_per_decision_and_epoch"] = 1e6 * taken.seconds
        figures[f"{name}_decisions_per_s"] = 1.0 / (collecting + epochs * taken.seconds)
        figures[f"{name}_peak_mib"] = taken.peak_bytes / 2**20
    return figures
