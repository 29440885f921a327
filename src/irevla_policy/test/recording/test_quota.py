"""Room for recordings: an episode that cannot fit is refused with the figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from irevla_policy.recording.quota import Quota, expected_rate, folder_size
from irevla_policy.robot.profile import load_profile

MB = 1_000_000


def fill(folder: Path, size: int) -> None:
    folder.mkdir(parents=True)
    (folder / "episode_0.mcap").write_bytes(b"\0" * size)


def test_no_limit_and_enough_room(tmp_path: Path) -> None:
    quota = Quota(tmp_path, limit=0, keep_free=0, estimate=1000)
    assert quota.refusal() == ""
    assert quota.exhausted(1000) == ""


def test_quota_is_kept(tmp_path: Path) -> None:
    fill(tmp_path / "a", 6 * MB)
    quota = Quota(tmp_path, limit=10 * MB, keep_free=0, estimate=5 * MB)
    assert "quota of 10.0 MB" in quota.refusal() and "6.0 MB are used" in quota.refusal()
    assert Quota(tmp_path, limit=12 * MB, keep_free=0, estimate=5 * MB).refusal() == ""
    assert quota.exhausted(3 * MB) == ""
    fill(tmp_path / "unfinished" / "b", 5 * MB)
    assert "used up" in quota.exhausted(5 * MB)


def test_deleted_bags_make_room(tmp_path: Path) -> None:
    fill(tmp_path / "a", 6 * MB)
    fill(tmp_path / "unfinished" / "b", 3 * MB)
    quota = Quota(tmp_path, limit=10 * MB, keep_free=0, estimate=5 * MB)
    assert "9.0 MB are used" in quota.refusal()
    (tmp_path / "unfinished" / "b" / "episode_0.mcap").unlink()
    assert "6.0 MB are used" in quota.refusal()
    (tmp_path / "a" / "episode_0.mcap").unlink()
    assert quota.refusal() == ""
    # While an episode runs, what it has written is no other's.
    fill(tmp_path / "c", 6 * MB)
    quota.finished(6 * MB)
    fill(tmp_path / "unfinished" / "d", 5 * MB)
    assert "used up" in quota.exhausted(5 * MB)
    (tmp_path / "c" / "episode_0.mcap").unlink()
    assert quota.exhausted(5 * MB) == ""
    assert quota.used == 0


def test_free_space_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quota = Quota(tmp_path / "not_yet_made", limit=0, keep_free=100 * MB, estimate=50 * MB)
    monkeypatch.setattr(Quota, "free", lambda self: 149 * MB)
    assert "149.0 MB free" in quota.refusal() and "100.0 MB must stay free" in quota.refusal()
    assert quota.exhausted(MB) == ""
    monkeypatch.setattr(Quota, "free", lambda self: 49 * MB)
    assert "only 49.0 MB free" in quota.exhausted(MB)


def test_the_estimate_follows_what_was_recorded(tmp_path: Path) -> None:
    quota = Quota(tmp_path, limit=0, keep_free=0, estimate=100 * MB)
    assert quota.expected == 100 * MB
    assert quota.used == 0
    quota.finished(10 * MB)
    assert quota.expected == 12 * MB
    assert quota.used == 10 * MB


def test_free_is_that_of_the_disk(tmp_path: Path) -> None:
    assert Quota(tmp_path / "a" / "b", 0, 0, 0).free() > 0


def test_folder_size_counts_subfolders(tmp_path: Path) -> None:
    fill(tmp_path / "a", 10)
    fill(tmp_path / "b" / "c", 5)
    assert folder_size(tmp_path) == 15
    assert folder_size(tmp_path / "a" / "episode_0.mcap") == 10
    assert folder_size(tmp_path / "missing") == 0


def test_expected_rate_follows_the_profile() -> None:
    profile = load_profile("sawyer")
    raw = sum(camera.width * camera.height * 3 * camera.rate for camera in profile.cameras)
    assert expected_rate(profile) > raw
    assert expected_rate(profile, "jpeg") < expected_rate(profile, "png") < expected_rate(profile)
