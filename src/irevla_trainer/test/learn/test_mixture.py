"""Expert data keeps its weight beside collected successes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from irevla_trainer.learn.mixture import Mixture


def drawn(mixture: Mixture, experts: int, seed: int = 0) -> tuple[Counter, Counter]:
    order = mixture.order(np.random.default_rng(seed))
    assert len(order) == mixture.epoch_length
    return Counter(order[order < experts].tolist()), Counter(order[order >= experts].tolist())


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("successes", [1, 7, 60])
def test_a_pass_has_every_expert_decision_once_and_the_share_of_successes(spot, share, successes):
    mixture = Mixture([spot(0, 12), spot(1, 8)], [spot(2, successes)], ["front"], share)
    experts, collected = drawn(mixture, 20)
    assert experts == dict.fromkeys(range(20), 1)
    assert collected.total() == round(20 * share / (1 - share))
    # Every success as often as any other, but for the rest of a division.
    if collected.total() >= successes:
        assert len(collected) == successes
        assert max(collected.values()) - min(collected.values()) <= 1
    else:
        assert set(collected.values()) <= {1}


def test_the_order_follows_from_the_seed(spot):
    mixture = Mixture([spot(0, 12)], [spot(1, 5)], ["front"], 0.5)
    first, same, other = (mixture.order(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_without_successes_it_is_the_expert_data(spot):
    mixture = Mixture([spot(0, 12)], [], ["front"], 0.5)
    assert mixture.epoch_length == 12
    assert drawn(mixture, 12) == (Counter(range(12)), Counter())


def test_indices_reach_the_decisions_they_name(spot):
    expert, success = spot(0, 4), spot(1, 3, "push the spot")
    batch = Mixture([expert], [success], ["front"], 0.5).batch(np.array([1, 6]))
    assert np.array_equal(batch.action[0, 0], expert.action[1])
    assert np.array_equal(batch.action[1, 0], success.action[2])
    assert batch.instructions == ["reach the spot", "push the spot"]


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_shares_that_cannot_be(spot, share):
    with pytest.raises(ValueError, match=r"expected a number in \[0, 1\)"):
        Mixture([spot(0)], [], ["front"], share)
