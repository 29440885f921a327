"""Updates of PPO on the same decisions: of the heads on latents, of the same in stable-baselines3, of all weights.

Each variant lives in a process of its own, whose memory is then its own; they update in turn.
"""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch

from irevla_policy.errors import RunError
from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.policy import VLAPolicy
from irevla_trainer.bench.rl_domain import Domain
from irevla_trainer.bench.rl_memory import PeakMemory
from irevla_trainer.bench.rl_samples import as_rollout, samples
from irevla_trainer.rl.latents import LatentStore
from irevla_trainer.rl.ppo import Ppo
from irevla_trainer.rl.settings import PpoSettings


@dataclass(frozen=True)
class Workload:
    """What every variant does.

    Attributes:
        domain: Whose instructions, images and states the observations have.
        decisions: Per update of all epochs.
        settings: Of PPO.
        device: Where.
        threads: Of the arithmetic.
    """

    domain: Domain
    decisions: int
    settings: PpoSettings
    device: str
    threads: int

    @classmethod
    def without_stops(
        cls, domain: Domain, decisions: int, epochs: int, device: str, threads: int, minibatch: int = 256
    ) -> Workload:
        """One in which every variant makes every update, however far the policy moves."""
        settings = PpoSettings(epochs=epochs, minibatch=minibatch, warmup=0, kl_target=0.0, kl_stop=math.inf)
        return cls(domain, decisions, settings, device, threads)


@dataclass(frozen=True)
class Updates:
    """What a variant took.

    Attributes:
        seconds: Per decision and epoch, median over the rounds, s.
        peak_bytes: Memory at the peak of an update: on a GPU what was allocated, else the growth of the resident set
            since the libraries were loaded.
    """

    seconds: float
    peak_bytes: int


VARIANTS = ("heads", "sb3", "whole_model")


def compare(workload: Workload, rounds: int) -> dict[str, Updates]:
    """Measure every variant, in turn.

    Args:
        workload: What each does.
        rounds: Updates of each; one more at the start does not count.
    """
    context = multiprocessing.get_context("spawn")
    taken: dict[str, list[tuple[float, int]]] = {name: [] for name in VARIANTS}
    with ExitStack() as stack:
        pools = {name: stack.enter_context(ProcessPoolExecutor(max_workers=1, mp_context=context)) for name in VARIANTS}
        for name, pool in pools.items():
            pool.submit(_prepare, name, workload).result()
        for _ in range(rounds + 1):
            for name, pool in pools.items():
                taken[name].append(pool.submit(_update).result())
    passes = workload.decisions * workload.settings.epochs
    return {
        name: Updates(float(np.median([seconds for seconds, _ in rows[1:]])) / passes, max(peak for _, peak in rows))
        for name, rows in taken.items()
    }


_prepared: tuple[PeakMemory, Callable[[], None]] | None = None
"""The variant of this process."""


def _prepare(name: str, workload: Workload) -> None:
    global _prepared
    torch.set_num_threads(workload.threads)
    if name == "sb3":
        import irevla_trainer.bench.rl_sb3  # noqa: F401  (a library is not part of what an update takes)
    memory = PeakMemory(torch.device(workload.device))
    _prepared = memory, make_variant(name, workload)


def _update() -> tuple[float, int]:
    assert _prepared is not None
    memory, update = _prepared
    memory.reset()
    start = time.perf_counter()
    update()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, memory.peak()


def make_variant(name: str, workload: Workload) -> Callable[[], None]:
    """A variant, ready to update from its decisions again and again.

    Args:
        name: Of `VARIANTS`.
        workload: What it does.
    """
    domain, settings = workload.domain, workload.settings
    policy = VLAPolicy.create(ModelSettings(), RobotFacts.of(domain.profile)).to(workload.device)
    seen = samples(domain, workload.decisions)
    if name == "sb3":
        from irevla_trainer.bench.rl_sb3 import sb3_ppo

        rollout = as_rollout(policy, seen, LatentStore(workload.decisions, device=policy.device), settings.noise)
        return sb3_ppo(policy, policy.new_critic(), seen, rollout, settings).train
    algorithm = Ppo(policy, settings, whole_model=name == "whole_model")
    rollout = as_rollout(policy, seen, algorithm.store(workload.decisions), settings.noise)

    def update() -> None:
        figures = algorithm.learn(rollout, seed=0)
        expected = settings.epochs * max(round(workload.decisions / settings.minibatch), 1)
        if figures["updates"] != expected:
            raise RunError(f"benchmark rl: {name}: expected {expected} updates, found {figures['updates']:.0f}")

    return update
