"""The episode index knows every bag and what it is good for, opens none twice, and follows what happens to them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sample_episodes import PROFILE, text, write_episode, write_foreign

from irevla_policy.recording import topics
from irevla_policy.recording.episode import write_label
from irevla_policy.recording.storage import Topic, find_bags, open_writer
from irevla_trainer.data import index as module
from irevla_trainer.data.index import EpisodeIndex


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the bags that were opened."""
    names: list[str] = []
    describe = module.describe

    def counted(bag: Path):
        names.append(bag.name)
        return describe(bag)

    monkeypatch.setattr(module, "describe", counted)
    return names


def index_of(tmp_path: Path, *folders: str) -> EpisodeIndex:
    return EpisodeIndex([tmp_path / folder for folder in folders or ("bags",)], PROFILE, tmp_path / "state" / "index")


def datasets(index: EpisodeIndex) -> dict[str, str]:
    return {episode.bag.name: episode.dataset for episode in index.episodes}


def test_episodes_are_sorted_by_what_they_are_good_for(tmp_path):
    bags = tmp_path / "bags"
    write_episode(bags / "expert", 2)
    write_episode(bags / "deep" / "human", 2, source="human")
    write_episode(bags / "policy", 2, source="policy")
    write_episode(bags / "helped", 2, source="mixed")
    write_episode(bags / "failed", 2, source="policy", success="no")
    write_episode(bags / "unlabelled", 2, source="policy", success="unknown")
    write_episode(bags / "aborted", 2, state="aborted")
    write_episode(bags / "unfinished" / "running", 2)
    index = index_of(tmp_path)
    assert {episode.bag.name for episode in index.refresh().new} == {
        "expert", "human", "policy", "helped", "failed", "unlabelled", "aborted"
    }  # fmt: skip
    assert datasets(index) == {
        "expert": "D_e",
        "human": "D_e",
        "policy": "D_RL",
        "helped": "D_RL",
        "failed": "",
        "unlabelled": "",
        "aborted": "",
    }


def test_bags_are_opened_once(tmp_path, opened):
    for name in ("one", "two"):
        write_episode(tmp_path / "bags" / name, 2)
    assert len(index_of(tmp_path).refresh().new) == 2
    again = index_of(tmp_path)
    assert datasets(again) == {"one": "D_e", "two": "D_e"}
    assert not again.refresh()
    assert opened == ["one", "two"]
    write_episode(tmp_path / "bags" / "three", 2)
    assert [episode.bag.name for episode in again.refresh().new] == ["three"]
    assert opened == ["one", "two", "three"]
    assert datasets(index_of(tmp_path)) == {"one": "D_e", "three": "D_e", "two": "D_e"}


def test_labels_after_the_fact_count_also_of_plain_recordings(tmp_path):
    bags = tmp_path / "bags"
    write_foreign(bags / "teleoperated", 5)
    write_episode(bags / "tried", 2, source="policy", success="unknown")
    index = index_of(tmp_path)
    index.refresh()
    assert datasets(index) == {"teleoperated": "", "tried": ""}
    write_label(bags / "teleoperated", "yes", "operator")
    write_label(bags / "tried", "yes", "operator")
    assert len(index.refresh().new) == 2
    assert datasets(index) == {"teleoperated": "D_e", "tried": "D_RL"}
    write_label(bags / "tried", "no", "operator")
    assert [episode.info.success for episode in index.refresh().new] == ["no"]
    assert datasets(index_of(tmp_path)) == {"teleoperated": "D_e", "tried": ""}


def test_bags_that_are_gone_are_forgotten(tmp_path):
    for name in ("one", "two"):
        write_episode(tmp_path / "bags" / name, 2)
    index = index_of(tmp_path)
    index.refresh()
    shutil.rmtree(tmp_path / "bags" / "one")
    assert index.refresh().gone == [tmp_path / "bags" / "one"]
    assert datasets(index) == datasets(index_of(tmp_path)) == {"two": "D_e"}


def test_bad_bags_are_listed_with_the_reason(tmp_path, opened):
    bags = tmp_path / "bags"
    write_episode(bags / "good", 2)
    write_episode(bags / "foreign", 2, robot="panda", profile_hash="0123456789ab")
    data = next(write_episode(bags / "empty", 2).glob("*.mcap"))
    whole = data.read_bytes()
    data.write_bytes(b"")
    index = index_of(tmp_path)
    index.refresh()
    problems = {episode.bag.name: episode.problem for episode in index.episodes if episode.problem}
    assert sorted(problems) == ["empty", "foreign"]
    assert "the file is empty" in problems["empty"]
    assert "recorded with robot 'panda' (profile hash 0123456789ab), expected 'metaworld_sawyer'" in problems["foreign"]
    assert datasets(index) == {"empty": "", "foreign": "", "good": "D_e"}
    # A bad bag is not tried again and again, but once its files have changed: it may have been on its way.
    assert not index.refresh()
    data.write_bytes(whole)
    index.refresh()
    assert datasets(index)["empty"] == "D_e"


def test_flipped_bytes_cost_no_other_bag(tmp_path, monkeypatch):
    monkeypatch.setenv("IREVLA_BAG_BACKEND", "rosbags")
    bags = tmp_path / "bags"
    good = write_episode(bags / "good", 1, omit=("/camera/image_raw",))
    write_episode(bags / "zz_last", 1, omit=("/camera/image_raw",))
    data = next(good.glob("*.mcap")).read_bytes()
    for number in range(60):
        bag = shutil.copytree(good, bags / f"flipped_{number:02}")
        place = len(data) * number // 60
        changed = data[:place] + bytes([data[place] ^ (1 + 37 * number % 255)]) + data[place + 1 :]
        next(bag.glob("*.mcap")).write_bytes(changed)
    index = index_of(tmp_path)
    assert len(index.refresh().new) == 62
    known = {episode.bag.name: episode for episode in index.episodes}
    assert known["good"].dataset == known["zz_last"].dataset == "D_e"
    flipped = [episode for name, episode in known.items() if name.startswith("flipped")]
    listed = [episode for episode in flipped if episode.problem]
    assert len(listed) > 20
    for episode in listed:
        assert episode.info is None
        assert str(episode.bag) in episode.problem and "\n" not in episode.problem
    assert all(episode.info == known["good"].info for episode in flipped if episode not in listed)
    assert not index_of(tmp_path).refresh()


def test_whatever_a_bag_raises_the_others_are_indexed(tmp_path, monkeypatch):
    for name in ("bad", "good"):
        write_episode(tmp_path / "bags" / name, 2)
    describe = module.describe

    def fail(bag: Path):
        if bag.name == "bad":
            raise ZeroDivisionError("of a\nlibrary")
        return describe(bag)

    monkeypatch.setattr(module, "describe", fail)
    index = index_of(tmp_path)
    index.refresh()
    bad, good = index.episodes
    assert bad.problem == f"{bad.bag}: cannot be read (ZeroDivisionError: of a library)"
    assert good.dataset == "D_e"


def test_what_passes_without_a_change_of_the_files_is_looked_at_again(tmp_path, monkeypatch):
    bag = write_episode(tmp_path / "bags" / "one", 2)
    index = index_of(tmp_path)
    with monkeypatch.context() as patch:

        def refused(bag: Path):
            raise PermissionError(13, "Permission denied", str(bag))

        patch.setattr(module, "describe", refused)
        assert [episode.problem for episode in index.refresh().new] == [f"[Errno 13] Permission denied: '{bag}'"]
        assert not index.refresh(), "the same problem is no news"
    for again in (index_of(tmp_path), index):
        assert datasets(again) == {"one": ""}
        assert [episode.dataset for episode in again.refresh().new] == ["D_e"]
    assert datasets(index_of(tmp_path)) == {"one": "D_e"}


def test_a_foreign_type_on_the_topic_of_descriptions_is_one_problem(tmp_path):
    bag = tmp_path / "bags" / "foreign"
    writer = open_writer(bag, [Topic(topics.EPISODE_INFO, "std_msgs/msg/String")])
    writer.write(topics.EPISODE_INFO, text("reach"), 1)
    writer.finish()
    index = index_of(tmp_path)
    index.refresh()
    (episode,) = index.episodes
    expected = "/irevla/episode_info carries std_msgs/msg/String, expected irevla_msgs/msg/EpisodeInfo"
    assert episode.problem == f"{bag}: {expected}"


def test_links_to_nothing_and_files_that_vanish_cost_no_bag(tmp_path, monkeypatch):
    bags = tmp_path / "bags"
    for folder in (bags, write_episode(bags / "one", 2)):
        (folder / "dangling").symlink_to(tmp_path / "nothing")
        (folder / "loop").symlink_to("loop")
        (folder / "vanishing").touch()
    scandir = os.scandir

    def late(folder: Path) -> Iterator[os.DirEntry[str]]:
        entries = list(scandir(folder))
        (folder / "vanishing").unlink(missing_ok=True)
        return iter(entries)

    monkeypatch.setattr(os, "scandir", late)
    index = index_of(tmp_path)
    index.refresh()
    assert datasets(index) == {"one": "D_e"}
    assert not index.refresh()


def test_linked_folders_are_looked_into_and_every_bag_counts_once(tmp_path):
    elsewhere, bags = tmp_path / "elsewhere", tmp_path / "bags"
    for name in ("one", "two"):
        write_episode(elsewhere / name, 2)
    write_episode(bags / "run" / "three", 2)
    (bags / "linked").symlink_to(elsewhere)
    (bags / "also-two").symlink_to(elsewhere / "two")
    (bags / "latest").symlink_to("run")
    (bags / "run" / "demos").symlink_to("../run")
    index = index_of(tmp_path)
    index.refresh()
    found = [episode.bag.relative_to(bags) for episode in index.episodes]
    assert found == [Path("also-two"), Path("linked/one"), Path("run/three")]
    assert find_bags(bags) == [bags / path for path in found]


def test_a_link_back_is_no_further_bag(tmp_path):
    write_episode(tmp_path / "unfinished" / "bags" / "one", 2)
    bags = tmp_path / "unfinished" / "bags"
    (bags / "self").symlink_to(".")
    (bags / "one" / "up").symlink_to("..")
    index = index_of(tmp_path, "unfinished/bags")
    index.refresh()
    assert datasets(index) == {"one": "D_e"}
    assert find_bags(bags) == [bags / "one"]


def test_recordings_without_metadata_are_listed_until_they_are_finished(tmp_path):
    bags = tmp_path / "bags"
    metadata = (write_foreign(bags / "killed", 2) / "metadata.yaml").rename(tmp_path / "metadata.yaml")
    write_episode(bags / "killed" / "deeper", 2)
    (write_episode(bags / "unfinished" / "ours", 2) / "metadata.yaml").unlink()
    (bags / "database").mkdir()
    (bags / "database" / "0.db3").touch()
    index = index_of(tmp_path)
    index.refresh()
    problems = {episode.bag.name: episode.problem for episode in index.episodes}
    assert sorted(problems) == ["database", "deeper", "killed"]
    assert not problems["deeper"]
    for name in ("database", "killed"):
        assert problems[name].startswith(f"{bags / name}: unfinished bag (no metadata.yaml)")
    # It may still be recorded: that it grows is no news, that it is finished is.
    with next((bags / "killed").glob("*.mcap")).open("ab") as file:
        file.write(b"more")
    assert not index.refresh()
    with next((bags / "killed").glob("*.mcap")).open("r+b") as file:
        file.truncate(os.fstat(file.fileno()).st_size - 4)
    metadata.rename(bags / "killed" / "metadata.yaml")
    shutil.rmtree(bags / "killed" / "deeper")
    assert [(episode.bag.name, episode.problem) for episode in index.refresh().new] == [("killed", "")]


def test_it_says_how_far_the_first_look_is(tmp_path):
    for name in ("one", "two"):
        write_episode(tmp_path / "bags" / name, 2)
    index = index_of(tmp_path)
    assert not index.complete and index.progress == (0, 0)
    said = []
    index.refresh(lambda done, total: said.append((index.complete, index.progress)))
    assert said == [(False, (1, 2)), (False, (2, 2))]
    assert index.complete and index.progress == (2, 2)
    # Of what is in the file nothing is known to be there until it was looked for; it need not be opened again.
    write_episode(tmp_path / "bags" / "three", 2)
    again = index_of(tmp_path)
    assert not again.complete
    again.refresh(lambda done, total: said.append((again.complete, again.progress)))
    assert said[2:] == [(False, (3, 3))]
    assert again.complete


@pytest.mark.parametrize("damage", ["deleted", "cut", "foreign", "other version"])
def test_the_index_is_made_anew_from_the_bags(tmp_path, damage):
    for name in ("one", "two"):
        write_episode(tmp_path / "bags" / name, 2)
    index_of(tmp_path).refresh()
    file = tmp_path / "state" / "index"
    whole = file.read_text()
    if damage == "deleted":
        file.unlink()
    elif damage == "cut":
        file.write_text(whole[:-30])
    elif damage == "foreign":
        file.write_text("no index\n")
    else:
        file.write_text(whole.replace('"version": 1', '"version": 0'))
    index = index_of(tmp_path)
    assert index.refresh()
    assert datasets(index) == {"one": "D_e", "two": "D_e"}
    assert file.read_text() == whole
    assert not index_of(tmp_path).refresh()


def test_the_file_stays_small(tmp_path):
    bag = write_episode(tmp_path / "bags" / "one", 2)
    index = index_of(tmp_path)
    for number in range(20):
        write_label(bag, "no" if number % 2 else "yes", "operator", stamp=number)
        index.refresh()
    assert len((tmp_path / "state" / "index").read_text().splitlines()) <= 6
    assert datasets(index_of(tmp_path)) == {"one": ""}


def test_folders_may_overlap_and_need_not_exist_yet(tmp_path):
    index = index_of(tmp_path, "bags", "bags/inner", "later")
    assert not index.refresh()
    write_episode(tmp_path / "bags" / "inner" / "one", 2)
    write_episode(tmp_path / "later" / "two", 2)
    assert len(index.refresh().new) == 2
