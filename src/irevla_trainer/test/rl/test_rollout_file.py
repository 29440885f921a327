"""Rollouts on the disk, and what is asked for: the same comes back, whole or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from irevla_policy.model.policy import Latent
from irevla_trainer.rl.asking import Ask, Asking, Noise, Role
from irevla_trainer.rl.latents import LatentStore
from irevla_trainer.rl.rollout import Rollout, Trajectory
from irevla_trainer.rl.rollout_file import read_rollout, write_rollout
from irevla_trainer.rl.worlds import EpisodeRequest

RANDOM = np.random.default_rng(0)


def episode(seed: int, length: int, success: bool, tokens: int = 5) -> Rollout:
    """One episode of noise."""
    store = LatentStore(64)
    count = length + (not success)
    store.add(
        Latent(
            torch.from_numpy(RANDOM.standard_normal((count, tokens, 8), dtype=np.float32)),
            torch.ones(count, tokens, dtype=torch.bool),
            torch.from_numpy(RANDOM.standard_normal((count, 3), dtype=np.float32)),
        )
    )
    index = np.arange(length)
    ended = index == length - 1
    request = EpisodeRequest("pick", "red", seed)
    action, mean = RANDOM.standard_normal((2, length, 4), dtype=np.float32)
    images = {"scene": RANDOM.integers(0, 256, (length, 6, 6, 3), dtype=np.uint8)}
    state = RANDOM.standard_normal((length, 3), dtype=np.float32)
    trajectory = Trajectory(request, images, ["pick it ü"] * length, state, action, mean, index == 1)
    return Rollout(
        observations=store,
        index=index,
        next_index=np.where(ended & success, index, index + 1),
        action=action,
        mean=mean,
        std=0.3,
        reward=(ended & success).astype(np.float32),
        terminated=ended & success,
        ended=ended,
        requests=[request],
        success=[success],
        intervened=[seed == 2],
        trajectories=[trajectory] if success else [],
    )


def test_episodes_come_back_as_one_rollout(tmp_path: Path) -> None:
    episodes = [episode(1, 4, False), episode(2, 3, True, tokens=7), episode(3, 5, True)]
    for number, one in enumerate(episodes):
        write_rollout(tmp_path / str(number), one)
    found = read_rollout([tmp_path / str(number) for number in range(3)], LatentStore(64))
    for name in ("action", "mean", "reward", "terminated", "ended"):
        assert (getattr(found, name) == np.concatenate([getattr(one, name) for one in episodes])).all(), name
    assert found.success == [False, True, True] and found.intervened == [False, True, False]
    assert found.requests == [one.requests[0] for one in episodes] and found.std == 0.3
    first = 0
    for one in episodes:
        for place in ("index", "next_index"):
            rows = getattr(found, place)[first : first + len(one)]
            stored, had = found.observations.latent(rows), one.observations.latent(getattr(one, place))
            tokens = had.hidden.shape[1]
            assert torch.equal(stored.hidden[:, :tokens], had.hidden) and torch.equal(stored.state, had.state)
            assert torch.equal(stored.mask[:, :tokens], had.mask) and not stored.mask[:, tokens:].any()
        first += len(one)
    [_, trajectory] = found.trajectories
    had = episodes[2].trajectories[0]
    assert trajectory.request == had.request and trajectory.instructions == had.instructions
    assert (trajectory.images["scene"] == had.images["scene"]).all()
    for name in ("executed", "intended", "intervened"):
        assert (getattr(trajectory, name) == getattr(had, name)).all(), name


def test_a_rollout_that_was_not_finished_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(np, "savez", fail)
        with pytest.raises(OSError, match="No space"):
            write_rollout(tmp_path / "0", episode(1, 3, True))
    assert not (tmp_path / "0").exists()
    write_rollout(tmp_path / "0", episode(1, 3, True))
    assert len(read_rollout([tmp_path / "0"], LatentStore(64))) == 3


def test_what_is_asked_for_is_read_as_it_was_asked(tmp_path: Path) -> None:
    asking = Asking(tmp_path)
    asking.role = role = Role("panda", "tabletop", 30, "float16")
    requests = (EpisodeRequest("pick", "", 4), EpisodeRequest("pick", "red", 5))
    ask, weights = Ask(7, requests, Noise(0.3, 12, 0.7)), {"head.weight": torch.arange(6.0).view(2, 3)}
    asking.ask(ask, weights)
    asking.ask(replace(ask, noise=Noise(0.1, 1, 0.0)), {"head.weight": torch.zeros(2, 3)})  # the first word counts
    again = Asking(tmp_path)
    assert again.role == role and again.asked() == [7]
    found, tensors = again.read(7)
    assert found == ask and torch.equal(tensors["head.weight"], weights["head.weight"])
    assert again.missing(ask) == [0, 1]
    write_rollout(again.episode(7, 1), episode(5, 3, True))
    assert asking.missing(ask) == [0]
    asking.ask(replace(ask, number=8), weights)
    asking.forget(7)
    assert again.asked() == [8] and not again.episode(7, 1).exists()
    with pytest.raises(FileNotFoundError):
        again.read(7)


def test_an_ask_that_is_forgotten_while_it_is_opened_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = Asking(tmp_path)
    asking.ask(Ask(7, (), Noise(0.3, 12, 0.7)), {"head.weight": torch.zeros(2)})

    def opened(path: Path, framework: str) -> None:
        asking.forget(7)
        raise RuntimeError(f"unable to open file <{path}> in read-only mode")

    monkeypatch.setattr("irevla_trainer.rl.asking.safe_open", opened)
    with pytest.raises(FileNotFoundError):
        asking.read(7)
