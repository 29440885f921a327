"""Stores of latents and of images."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest
import torch

from irevla_policy.errors import RunError
from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.policy import Latent, VLAPolicy
from irevla_trainer.rl.latents import ImageStore, LatentStore, concatenated, encode, new_store
from irevla_trainer.rl.settings import LatentSettings
from irevla_trainer.rl.worlds import Seen

ROBOT = RobotFacts("test_arm", ("front",), "ee_delta", 2, 2, ("gripper",), 20.0)


def latents(count: int, tokens: int = 5, seed: int = 0) -> Latent:
    random = torch.Generator().manual_seed(seed)
    mask = torch.arange(tokens) < torch.randint(1, tokens + 1, (count, 1), generator=random)
    return Latent(
        torch.randn(count, tokens, 8, generator=random), mask, torch.randn(count, 3, generator=random)
    )  # fmt: skip


def assert_same(one: Latent, other: Latent) -> None:
    for name in ("hidden", "mask", "state"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize(("dtype", "error"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-8), (torch.float32, 0.0)])
def test_latents_come_back_within_the_precision_of_their_type(dtype, error):
    store, latent = LatentStore(10, dtype), latents(6)
    index = store.add(latent)
    back = store.latent(index)
    assert back.hidden.dtype == torch.float32
    torch.testing.assert_close(back.hidden, latent.hidden, rtol=error, atol=1e-7)
    assert torch.equal(back.state, latent.state) and torch.equal(back.mask, latent.mask)
    assert_same(back, store.rounded(latent))


def test_order_is_that_of_the_indices():
    store = LatentStore(10)
    first, second = store.add(latents(2, seed=1)), store.add(latents(3, seed=2))
    assert first.tolist() == [0, 1] and second.tolist() == [2, 3, 4]
    picked = store.latent(np.array([4, 0]))
    assert torch.equal(picked.state, torch.stack([latents(3, seed=2).state[2], latents(2, seed=1).state[0]]))


def test_oldest_make_room_for_the_newest():
    store = LatentStore(4)
    store.add(latents(3, seed=1))
    assert store.add(latents(3, seed=2)).tolist() == [3, 0, 1]
    assert len(store) == 4
    kept = store.latent(np.array([2, 3, 0, 1]))
    assert_same(kept, store.rounded(concatenated([rows(latents(3, seed=1), [2]), latents(3, seed=2)])))


def rows(latent: Latent, index: list[int]) -> Latent:
    return Latent(latent.hidden[index], latent.mask[index], latent.state[index])


@pytest.mark.parametrize("spilled", [False, True])
def test_longer_instructions_widen_the_store(tmp_path, spilled):
    store = LatentStore(6, folder=tmp_path if spilled else None)
    short, longer, shortest = latents(2, 3, seed=1), latents(2, 7, seed=2), latents(2, 2, seed=3)
    for latent in (short, longer, shortest):
        store.add(latent)
    back = store.latent(np.arange(6))
    assert_same(back, store.rounded(concatenated([short, longer, shortest])))
    assert store.bytes == 6 * 7 * 8 * 2


def test_overwritten_rows_leave_no_tokens_behind():
    store = LatentStore(2)
    store.add(latents(2, 7, seed=1))
    short = latents(2, 3, seed=2)
    assert not store.latent(store.add(short)).mask[:, 3:].any()


def test_spilled_to_disk_equals_memory(tmp_path):
    memory, disk = LatentStore(5), LatentStore(5, folder=tmp_path / "latents")
    for seed in range(3):
        for store in (memory, disk):
            store.add(latents(3, seed=seed))
    assert_same(memory.latent(np.arange(5)), disk.latent(np.arange(5)))
    assert (tmp_path / "latents" / "hidden-5.bin").stat().st_size == memory.bytes == 5 * 5 * 8 * 2


@pytest.mark.parametrize("spilled", [False, True])
def test_loaded_store_goes_on(tmp_path, spilled):
    folder = tmp_path if spilled else None
    store = LatentStore(5, folder=folder)
    store.add(latents(4, seed=1))
    tensors = {name: tensor.clone() for name, tensor in store.tensors().items()}
    assert ("hidden" in tensors) is not spilled
    store.add(latents(3, seed=2))
    expected = store.latent(np.arange(5))

    again = LatentStore(5, folder=folder)
    again.load(tensors)
    assert len(again) == 4
    assert again.add(latents(3, seed=2)).tolist() == [4, 0, 1]
    assert_same(again.latent(np.arange(5)), expected)


def test_files_that_nothing_goes_on_from_are_removed(tmp_path):
    store = LatentStore(9, folder=tmp_path)
    store.add(latents(2, 3, seed=1))
    store.add(latents(2, 4, seed=2))
    tensors = {name: tensor.clone() for name, tensor in store.tensors().items()}
    saved = store.latent(np.arange(4))
    for tokens in (5, 6):
        store.add(latents(2, tokens))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hidden-4.bin", "hidden-6.bin"]
    again = LatentStore(9, folder=tmp_path)
    again.load(tensors)
    assert_same(again.latent(np.arange(4)), saved)


def test_missing_file_is_an_error_that_names_it(tmp_path):
    store = LatentStore(5, folder=tmp_path)
    store.add(latents(4))
    tensors = store.tensors()
    (tmp_path / "hidden-5.bin").unlink()
    with pytest.raises(RunError, match=r"hidden-5\.bin: expected 400 bytes .* found no such file"):
        LatentStore(5, folder=tmp_path).load(tensors)


def test_room_on_the_disk_is_taken_at_the_start(tmp_path, monkeypatch):
    """A disk that fills up under a mapped file would end the process with a bus error."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    store = LatentStore(1000, folder=tmp_path)
    store.add(latents(1))
    (file,) = tmp_path.iterdir()
    assert file.stat().st_blocks * 512 >= file.stat().st_size == 1000 * 5 * 8 * 2
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        LatentStore(1000, folder=tmp_path).add(latents(1))


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_rollout_is_stored_as_the_settings_say(on_disk, tmp_path):
    settings = LatentSettings(dtype="bfloat16", on_disk=on_disk)
    store = new_store(4, settings, tmp_path, torch.device("cpu"))
    written = latents(4)
    store.add(written)
    assert len(list(tmp_path.rglob("*.bin"))) == on_disk
    hidden = store.latent(np.arange(4)).hidden
    assert torch.equal(hidden, written.hidden.bfloat16().float())
    again = new_store(4, settings, tmp_path, torch.device("cpu"))
    again.add(latents(2))
    assert torch.equal(store.latent(np.arange(4)).hidden, hidden), "an older store has its own file"


def test_store_without_room_is_refused():
    with pytest.raises(ValueError, match="at least 1, found 0"):
        LatentStore(0)


def test_images_are_encoded_as_directly():
    policy = VLAPolicy.create(ModelSettings(), ROBOT, seed=0)
    random = np.random.default_rng(0)
    images = {"front": random.integers(0, 255, (3, 96, 96, 3), dtype=np.uint8)}
    texts, state = ["open the drawer", "close it", "open the drawer"], random.normal(size=(3, 2)).astype(np.float32)
    store = ImageStore(policy)
    assert store.add(Seen([0, 1, 2], [0, 0, 0], images, texts, state)).tolist() == [0, 1, 2]
    assert store.add(Seen([0, 1, 2], [1, 1, 1], images, texts, state)).tolist() == [3, 4, 5]
    picked = np.array([2, 4])
    with torch.no_grad():
        direct = encode(policy, {"front": images["front"][[2, 1]]}, [texts[2], texts[1]], state[[2, 1]])
        assert_same(store.latent(picked), direct)
    policy.unfreeze_backbone()
    assert store.latent(picked).hidden.requires_grad
    settled = store.encoded()
    assert len(settled) == 6
    assert_same(settled.latent(picked), settled.rounded(direct))
    store.clear()
    assert len(store) == 0
