"""Data sets: the wanted episodes, the same each time, with bounded memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sample_episodes as sample
from sample_episodes import PROFILE

from irevla_policy.recording.episode import write_label
from irevla_policy.recording.storage import BagError, BagReader, open_writer
from irevla_policy.recording.topics import episode_topic
from irevla_trainer.data import dataset as module
from irevla_trainer.data import reader as reader_module
from irevla_trainer.data.dataset import DatasetError, Wanted, load_dataset
from irevla_trainer.data.frames import FrameFile
from irevla_trainer.data.reader import EpisodeReader
from irevla_trainer.loop.recorded import load_recorded
from irevla_trainer.loop.settings import TaskSets, TrainFile


def write_three(folder: Path) -> None:
    sample.write_episode(folder / "c", steps=4)
    sample.write_episode(folder / "a", steps=3, success="no")
    sample.write_episode(folder / "deeper" / "b", steps=5, task="push", source="policy")


def test_successes_in_the_order_of_their_paths(tmp_path: Path) -> None:
    write_three(tmp_path)
    data = load_dataset([tmp_path], PROFILE)
    assert [len(episode) for episode in data.episodes] == [4, 5]
    assert data.decisions == 9
    assert [report.left_out for report in data.reports] == ["not a success", "", ""]


@pytest.mark.parametrize(
    ("wanted", "lengths"),
    [
        (Wanted(success_only=False), [3, 4, 5]),
        (Wanted(tasks=("push",)), [5]),
        (Wanted(success_only=False, sources=("expert",)), [3, 4]),
    ],
)
def test_filters(tmp_path: Path, wanted: Wanted, lengths: list[int]) -> None:
    write_three(tmp_path)
    assert [len(episode) for episode in load_dataset([tmp_path], PROFILE, wanted).episodes] == lengths


def test_unlabelled_bags_say_how_to_label_them(tmp_path: Path) -> None:
    bag = sample.write_episode(tmp_path / "a", steps=3, success="unknown")
    with pytest.raises(DatasetError, match=r"no success label.*irevla inspect --label"):
        load_dataset([tmp_path], PROFILE)
    write_label(bag, "yes", "operator")
    assert len(load_dataset([tmp_path], PROFILE).episodes) == 1


def test_problems_do_not_stop_the_others(tmp_path: Path) -> None:
    sample.write_episode(tmp_path / "good", steps=3)
    (sample.write_episode(tmp_path / "bad", steps=3) / "bad_0.mcap").write_bytes(b"")
    open_writer(tmp_path / "left", [episode_topic()]).abandon()
    data = load_dataset([tmp_path], PROFILE)
    assert len(data.episodes) == 1
    problems = {Path(report.path).name: report.problem for report in data.reports}
    assert "empty" in problems["bad"] and "unfinished" in problems["left"] and not problems["good"]


def test_nothing_to_learn_from_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BagError, match="holds no bag"):
        load_dataset([tmp_path], PROFILE)
    with pytest.raises(BagError, match="no such"):
        load_dataset([tmp_path / "none"], PROFILE)
    with pytest.raises(DatasetError, match="source must be one of"):
        Wanted(sources=("robot",))


def test_memory_is_bounded_by_disk(tmp_path: Path) -> None:
    write_three(tmp_path / "bags")
    plain = load_dataset([tmp_path / "bags"], PROFILE)
    data = load_dataset([tmp_path / "bags"], PROFILE, memory_mb=0.15)
    frames = [episode.images["corner"] for episode in data.episodes]
    assert isinstance(frames[0], np.ndarray) and isinstance(frames[1], FrameFile)
    np.testing.assert_array_equal(frames[1][2], plain.episodes[1].images["corner"][2])
    np.testing.assert_array_equal(frames[1][-1], plain.episodes[1].images["corner"][-1])
    np.testing.assert_array_equal(frames[1][1:4], plain.episodes[1].images["corner"][1:4])
    np.testing.assert_array_equal(np.asarray(frames[1]), plain.episodes[1].images["corner"])
    with pytest.raises(IndexError):
        frames[1][5]
    place = frames[1].path
    data.close()
    assert not place.exists()


def test_a_cache_decodes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_three(tmp_path / "bags")
    plain = load_dataset([tmp_path / "bags"], PROFILE)
    load_dataset([tmp_path / "bags"], PROFILE, cache=tmp_path / "cache")

    class Refusing(EpisodeReader):
        def read(self, path, leave_out=lambda info: ""):  # type: ignore[no-untyped-def]
            if Path(path).name != "a":
                raise AssertionError(f"{path} was decoded again")
            return super().read(path, leave_out)

    monkeypatch.setattr(module, "EpisodeReader", Refusing)
    again = load_dataset([tmp_path / "bags"], PROFILE, cache=tmp_path / "cache")
    for first, second in zip(plain.episodes, again.episodes, strict=True):
        np.testing.assert_array_equal(first.action, second.action)
        np.testing.assert_array_equal(first.state, second.state)
        np.testing.assert_array_equal(first.images["corner"], np.asarray(second.images["corner"]))
        assert first.info == second.info and first.instructions == second.instructions


@pytest.mark.parametrize("name", ["arrays.npz", "0.frames", "episode.json"])
@pytest.mark.parametrize("left", [0, 200])
def test_a_cache_that_a_power_cut_has_shortened_is_decoded_anew(tmp_path: Path, name: str, left: int) -> None:
    sample.write_episode(tmp_path / "bags" / "a", steps=3)
    plain = load_dataset([tmp_path / "bags"], PROFILE, cache=tmp_path / "cache")
    (file,) = (tmp_path / "cache").rglob(name)
    file.write_bytes(file.read_bytes()[:left])
    again = load_dataset([tmp_path / "bags"], PROFILE, cache=tmp_path / "cache")
    np.testing.assert_array_equal(plain.episodes[0].action, again.episodes[0].action)
    assert np.asarray(again.episodes[0].images["corner"]).shape[0] == 3
    assert file.stat().st_size > left


def test_a_bag_that_may_not_be_read_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample.write_episode(tmp_path / "good", steps=3)
    bad = sample.write_episode(tmp_path / "bad", steps=3)
    opened = reader_module.open_reader

    def refuse(path: Path) -> BagReader:
        if Path(path) == bad:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path)

    monkeypatch.setattr(reader_module, "open_reader", refuse)
    data = load_dataset([tmp_path], PROFILE)
    assert len(data.episodes) == 1
    problems = {Path(report.path).name: report.problem for report in data.reports}
    assert problems == {"good": "", "bad": f"[Errno 13] Permission denied: '{bad}'"}


def test_a_new_label_reaches_through_the_cache(tmp_path: Path) -> None:
    bag = sample.write_episode(tmp_path / "bags" / "a", steps=3)
    sample.write_episode(tmp_path / "bags" / "b", steps=2)
    cache = tmp_path / "cache"
    assert len(load_dataset([tmp_path / "bags"], PROFILE, cache=cache).episodes) == 2
    write_label(bag, "no", "operator")
    data = load_dataset([tmp_path / "bags"], PROFILE, cache=cache)
    assert [episode.info.episode_id for episode in data.episodes] == ["b"]


@pytest.mark.parametrize(("recorded", "wanted"), [("drawer-open-v3", "drawer-open"), ("drawer-open", "drawer-open-v3")])
def test_a_run_finds_demonstrations_under_another_name_of_their_task(
    tmp_path: Path, recorded: str, wanted: str
) -> None:
    sample.write_episode(tmp_path / "bags" / "one", 4, task=recorded)
    settings = TrainFile(TaskSets(expert=(wanted,)), bags=(str(tmp_path / "bags"),))
    found = load_recorded(settings, PROFILE, tmp_path / "cache")
    assert [episode.info.task for episode in found.experts] == [recorded]
    found.close()
