"""`irevla inspect`: what is in bags, problems named, exit codes that scripts can rely on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
import sample_episodes as sample

from irevla_policy.recording import storage
from irevla_policy.recording.episode import read_label
from irevla_policy.recording.storage import BagError, open_reader, open_writer
from irevla_policy.recording.topics import episode_topic
from irevla_trainer import cli
from irevla_trainer.data import reader


def test_a_good_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample.write_episode(tmp_path / "a", steps=4)
    sample.write_episode(tmp_path / "b", steps=5, success="no")
    assert cli.main(["inspect", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "2 of 2 bags used: 9 decisions, 0 dropped" in shown
    assert "success no" in shown


def test_one_bag_in_detail_and_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = sample.write_episode(tmp_path / "a", steps=4)
    assert cli.main(["inspect", str(bag)]) == 0
    assert "/camera/image_raw: 5 x sensor_msgs/msg/Image" in capsys.readouterr().out
    assert cli.main(["inspect", str(bag), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (described,) = document["bags"]
    assert described["info"]["task"] == "reach"
    assert described["topics"]["/irevla/command"] == {"type": "irevla_msgs/msg/Command", "messages": 4}
    assert described["report"]["used"] == 4
    assert document["unfinished"] == []


def test_problems_are_named_and_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample.write_episode(tmp_path / "good", steps=4)
    bad = sample.write_episode(tmp_path / "bad", steps=4)
    (bad / "bad_0.mcap").write_bytes(b"")
    assert cli.main(["inspect", str(tmp_path), "--json", str(tmp_path / "out" / "report.json")]) == 1
    assert "bad_0.mcap: the file is empty" in capsys.readouterr().out
    reports = [bag["report"] for bag in json.loads((tmp_path / "out" / "report.json").read_text())["bags"]]
    assert [bool(report["problem"]) for report in reports] == [True, False]


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["inspect", str(tmp_path / "none")],
        ["inspect", str(tmp_path)],
        ["inspect", str(tmp_path), "--label=yes"],
    ):
        assert cli.main(words) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = sample.write_episode(tmp_path / "a", steps=4, success="unknown")
    assert cli.main(["inspect", str(bag), "--label", "yes", "--labelled-by", "me"]) == 0
    assert "success yes" in capsys.readouterr().out
    label = read_label(bag)
    assert label is not None and label.labelled_by == "me"


def test_what_a_killed_recorder_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = open_writer(tmp_path / "left", [episode_topic()])
    writer.write("/irevla/episode_info", sample.info_of(tmp_path / "left", state="recording").serialize(), sample.START)
    writer.abandon()
    assert cli.main(["inspect", str(tmp_path)]) == 1
    assert "unfinished: its recorder was killed" in capsys.readouterr().out
    cli.main(["inspect", str(tmp_path), "--recover"])
    assert "left: recovered, 1 messages, marked as aborted" in capsys.readouterr().out
    assert (tmp_path / "left" / "metadata.yaml").is_file()


def test_what_is_recovered_alone_is_shown_where_it_is_now(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = sample.write_episode(tmp_path / "whole", steps=4)
    left = tmp_path / "unfinished" / "left"
    left.mkdir(parents=True)
    next(whole.glob("*.mcap")).rename(left / "left_0.mcap")
    assert cli.main(["inspect", str(left), "--recover"]) == 0
    shown = capsys.readouterr().out
    assert f"{tmp_path / 'left'}: recovered, " in shown and "4 decisions" in shown


def test_a_finished_bag_that_was_cut_off_is_saved_with_its_label(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = sample.write_episode(tmp_path / "bag", steps=40, success="unknown")
    assert cli.main(["inspect", str(bag), "--label", "yes"]) == 0
    data = next(bag.glob("*.mcap"))
    data.write_bytes(data.read_bytes()[:-200])
    capsys.readouterr()
    assert cli.main(["inspect", str(bag)]) == 1
    assert f"`irevla inspect --recover {bag}` saves what can be read" in capsys.readouterr().out
    cli.main(["inspect", str(bag), "--recover"])
    saved = tmp_path / "bag_saved"
    assert f"{saved}: recovered, " in capsys.readouterr().out
    label = read_label(saved)
    assert label is not None and label.success == "yes" and not bag.exists()


def test_nobody_is_told_to_recover_what_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = next(sample.write_episode(tmp_path / "bag", steps=4).glob("*.mcap")).rename(tmp_path / "alone.mcap")
    data.write_bytes(data.read_bytes()[:-200])
    assert cli.main(["inspect", str(data)]) == 1
    shown = capsys.readouterr().out
    assert "truncated" in shown and "--recover" not in shown
    (tmp_path / "database").mkdir()
    (tmp_path / "database" / "0.db3").write_bytes(b"SQLite")
    with pytest.raises(BagError, match=f"then `ros2 bag reindex {tmp_path / 'database'}` mends it"):
        open_reader(tmp_path / "database")


def test_what_was_cut_off_before_its_first_message_is_said_to_be_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_writer(tmp_path / "left", [episode_topic()]).abandon()
    left = tmp_path / "unfinished" / "left"
    assert cli.main(["inspect", str(left), "--recover"]) == 0
    assert f"{left}: removed, it was cut off before its first message" in capsys.readouterr().out
    assert not left.exists()


def test_a_bag_that_may_not_be_read_is_a_line_among_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sample.write_episode(tmp_path / "good", steps=3)
    bad = sample.write_episode(tmp_path / "bad", steps=3)
    opened = storage.open_reader

    def refuse(path: Path) -> storage.BagReader:
        if Path(path) == bad:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path)

    for module in (storage, reader):
        monkeypatch.setattr(module, "open_reader", refuse)
    assert cli.main(["inspect", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert f"[Errno 13] Permission denied: '{bad}'" in shown and "3 decisions" in shown
