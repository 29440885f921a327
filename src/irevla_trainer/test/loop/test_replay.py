"""D_RL on disk: whole batches or none, and the newest episodes."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from irevla_trainer.data.frames import FrameFile
from irevla_trainer.loop.replay import Replay
from irevla_trainer.rl.rollout import Trajectory
from irevla_trainer.rl.worlds import EpisodeRequest


def trajectory(seed: int, length: int = 3, variation: str = "blue", helped: tuple[int, ...] = ()) -> Trajectory:
    random = np.random.default_rng(seed)
    return Trajectory(
        request=EpisodeRequest("drawer-open", variation, seed),
        images={"corner": random.integers(256, size=(length, 8, 8, 3), dtype=np.uint8)},
        instructions=["open the drawer"] * length,
        state=random.normal(size=(length, 4)).astype(np.float32),
        executed=random.normal(size=(length, 4)).astype(np.float32),
        intended=random.normal(size=(length, 4)).astype(np.float32),
        intervened=np.isin(np.arange(length), helped),
    )


def seeds(replay: Replay) -> list[int]:
    return [episode.seed for episode in replay.episodes()]


@pytest.mark.parametrize("imitate", ["intended", "executed"])
def test_an_episode_comes_back_as_it_was(tmp_path, imitate):
    stored = [trajectory(1), trajectory(2, 5, "")]
    Replay(tmp_path / "new" / "successes", 10, imitate).add(0, stored)
    episodes = Replay(tmp_path / "new" / "successes", 10, imitate).episodes()
    assert [episode.task for episode in episodes] == ["drawer-open:blue", "drawer-open"]
    for episode, before in zip(episodes, stored, strict=True):
        assert np.array_equal(episode.images["corner"][1], before.images["corner"][1])
        assert np.array_equal(np.asarray(episode.images["corner"]), before.images["corner"])
        assert np.array_equal(episode.state, before.state)
        assert np.array_equal(episode.action, getattr(before, imitate))
        assert list(episode.instructions) == before.instructions


def test_new_actions_take_the_place_of_all_old_ones(tmp_path, monkeypatch):
    replay = Replay(tmp_path, 10, "final")
    replay.add(0, [trajectory(1)])
    replay.add(1, [trajectory(2, 5), trajectory(3)])
    replay.relabel(lambda episode: -episode.state)
    for episode, seed in zip(Replay(tmp_path, 10, "final").episodes(), (1, 2, 3), strict=True):
        assert np.array_equal(episode.action, -episode.state)
        assert np.array_equal(episode.state, trajectory(seed, len(episode.state)).state)

    def full(*arguments, **named):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        replay.relabel(lambda episode: 5.0 * episode.state)
    assert all(np.array_equal(episode.action, -episode.state) for episode in replay.episodes())


@pytest.mark.parametrize("noisy", [False, True])
def test_what_a_person_did_stays_without_noise_and_what_a_policy_found_has_its_own(tmp_path, noisy):
    replay, helped, alone = Replay(tmp_path, 10, "explored"), trajectory(1, 5, helped=(1, 2)), trajectory(2)
    replay.add(0, [helped, alone])
    for _ in range(2):
        replay.relabel(lambda episode: -episode.state, noisy)
    first, second = replay.episodes()
    assert np.array_equal(first.action[1:3], helped.intended[1:3])
    assert np.array_equal(first.action[[0, 3, 4]], -helped.state[[0, 3, 4]])
    noise = alone.executed - alone.intended
    assert np.array_equal(second.action, noise - alone.state if noisy else -alone.state)


def test_an_episode_of_a_version_without_noise_has_none(tmp_path):
    replay = Replay(tmp_path, 10, "final")
    replay.add(0, [trajectory(1)])
    (file,) = tmp_path.rglob("arrays.npz")
    with np.load(file, allow_pickle=False) as arrays:
        kept = {name: arrays[name] for name in ("state", "action", "intervened")}
    np.savez(file, **kept)
    (episode,) = replay.episodes()
    assert np.array_equal(episode.action, trajectory(1).intended)
    assert not episode.noise.any()


def test_the_oldest_make_room(tmp_path):
    replay = Replay(tmp_path, 4, "intended")
    replay.add(0, [trajectory(1), trajectory(2), trajectory(3)])
    replay.add(1, [])
    replay.add(2, [trajectory(4), trajectory(5)])
    assert seeds(replay) == [2, 3, 4, 5]
    replay.add(3, [trajectory(6), trajectory(7)])
    assert seeds(replay) == [4, 5, 6, 7]
    assert not (tmp_path / "000000").exists()


def test_batches_of_iterations_that_come_again_are_forgotten(tmp_path):
    replay = Replay(tmp_path, 10, "intended")
    for batch in range(3):
        replay.add(batch, [trajectory(batch)])
    replay.forget(1)
    assert seeds(replay) == [0]
    replay.add(1, [trajectory(7)])
    replay.add(1, [trajectory(8)])
    assert seeds(replay) == [0, 8]


def test_a_full_disk_leaves_nothing_of_a_batch(tmp_path, monkeypatch):
    replay = Replay(tmp_path, 10, "intended")
    replay.add(0, [trajectory(0)])
    write = FrameFile.write

    def full(path, images):
        if path.parent.name == "00001":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, images)

    monkeypatch.setattr(FrameFile, "write", full)
    with pytest.raises(OSError, match="No space left"):
        replay.add(1, [trajectory(1), trajectory(2)])
    assert [path.name for path in tmp_path.iterdir()] == ["000000"]
    monkeypatch.undo()
    replay.add(1, [trajectory(1), trajectory(2)])
    assert seeds(replay) == [0, 1, 2]


def test_what_a_killed_process_left_of_a_batch_is_no_episode(tmp_path):
    replay = Replay(tmp_path, 10, "intended")
    (tmp_path / ".000000.partial" / "00000").mkdir(parents=True)
    assert seeds(replay) == []
    replay.add(0, [trajectory(3)])
    assert seeds(replay) == [3]
    assert [path.name for path in tmp_path.iterdir()] == ["000000"]
