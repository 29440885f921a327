"""Both algorithms make a mediocre cloned policy good from 0/1 rewards, where latents hold all there is to know."""

from __future__ import annotations

import pytest
import torch
from point_reaching import cloned_policy, improve, success_rate

from irevla_trainer.rl.ppo import Ppo
from irevla_trainer.rl.sacfd import Sacfd
from irevla_trainer.rl.settings import PpoSettings, SacfdSettings

# Half the updates and a smaller batch than by default: the test is to take seconds.
LITTLE = SacfdSettings(
    demonstrations=10, critic_width=64, batch_size=64, warmup=300, updates_per_decision=0.5, updates_per_actor=1
)


@pytest.mark.parametrize(
    ("algorithm", "decisions"),
    [
        pytest.param(lambda policy: Ppo(policy, PpoSettings()), 10_000, id="ppo"),
        pytest.param(lambda policy: Sacfd(policy, LITTLE), 3_200, id="sacfd", marks=pytest.mark.slow),
    ],
)
def test_success_rises(algorithm, decisions):
    policy = cloned_policy()
    assert 0.2 < success_rate(policy) < 0.6
    torch.manual_seed(0)
    curve = improve(policy, algorithm(policy), decisions)
    # Stage 1 keeps the best head that was validated.
    assert max(success for _, success in curve) >= 0.9, curve
