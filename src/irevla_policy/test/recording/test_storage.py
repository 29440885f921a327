"""Bags: what is written is read again, by us and by others, and what is wrong with a bag is named."""

from __future__ import annotations

import json
import struct
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from sample_bags import TOPICS, image, text, write_bag

from irevla_policy.recording import interfaces
from irevla_policy.recording.mcap_records import CHUNK, MAGIC, MESSAGE_INDEX, RECORD
from irevla_policy.recording.recovery import recover, unfinished
from irevla_policy.recording.storage import BagError, find_bags, open_reader, open_writer

START = 1_700_000_000_000_000_000


def test_round_trip(tmp_path: Path, bag_backend: str) -> None:
    bag = write_bag(tmp_path / "episode", custom={"irevla.task": "reach"})
    with closing(open_reader(bag)) as reader:
        assert reader.message_count == 11
        assert reader.topics["/camera/image_raw"].count == 10
        assert reader.topics["/irevla/command"].count == 0
        offers = {name: topic.offers[0].latched for name, topic in reader.topics.items()}
        assert offers["/irevla/instruction"] and not offers["/camera/image_raw"]
        assert reader.custom["irevla.task"] == "reach"
        assert (reader.start_time, reader.end_time) == (START, START + 9 * 50_000_000 + 1_000_000)
        messages = list(reader.messages(["/camera/image_raw"]))
        frames = [reader.deserialize(message) for message in messages]
    assert [int(frame.data[0]) for frame in frames] == list(range(10))
    assert [interfaces.stamp_of(frame.header) for frame in frames] == [START + n * 50_000_000 for n in range(10)]
    assert bytes(messages[3].data) == image(START + 150_000_000, 3)


def test_rosbags_and_mcap_read_our_bags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rosbags = pytest.importorskip("rosbags.highlevel")
    mcap_reader = pytest.importorskip("mcap.reader")
    monkeypatch.setenv("IREVLA_BAG_BACKEND", "rosbags")
    bag = write_bag(tmp_path / "episode", frames=200)
    with rosbags.AnyReader([bag]) as reader:
        connection = next(item for item in reader.connections if item.topic == "/camera/image_raw")
        read = [reader.deserialize(data, item.msgtype) for item, _, data in reader.messages([connection])]
        assert connection.digest == interfaces.type_hash("sensor_msgs/msg/Image")
        latched = next(item for item in reader.connections if item.topic == "/irevla/instruction")
        assert latched.ext.offered_qos_profiles[0].durability.name == "TRANSIENT_LOCAL"
    assert [int(message.data[0]) for message in read] == [number % 256 for number in range(200)]
    with (bag / "episode_0.mcap").open("rb") as file:
        mcap = mcap_reader.make_reader(file, validate_crcs=True)
        summary = mcap.get_summary()
        assert summary.statistics.message_count == 201
        assert mcap.get_header().profile == "ros2"
        by_index = [message.log_time for _, _, message in mcap.iter_messages(topics=["/camera/image_raw"])]
        file.seek(0)
        in_order = mcap_reader.NonSeekingReader(file, validate_crcs=True)
        assert [message.log_time for _, _, message in in_order.iter_messages(topics=["/camera/image_raw"])] == by_index
        metadata = {record.name: record.metadata for record in mcap.iter_metadata()}
    assert len(by_index) == 200
    inside = yaml.safe_load(metadata["rosbag2"]["serialized_metadata"])
    outside = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert inside == outside


def test_metadata_has_every_field_that_rosbag2_demands(tmp_path: Path, bag_backend: str) -> None:
    bag = write_bag(tmp_path / "episode")
    information = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert information["version"] == 9
    assert information["storage_identifier"] == "mcap"
    assert information["relative_file_paths"] == ["episode_0.mcap"]
    assert information["message_count"] == 11
    assert information["files"][0]["message_count"] == 11
    assert information["starting_time"]["nanoseconds_since_epoch"] == START
    assert information["compression_format"] == information["compression_mode"] == ""
    topics = {
        item["topic_metadata"]["name"]: item["topic_metadata"] for item in information["topics_with_message_count"]
    }
    assert topics["/irevla/instruction"]["offered_qos_profiles"][0]["durability"] == "transient_local"
    assert topics["/camera/image_raw"]["offered_qos_profiles"][0]["reliability"] == "best_effort"
    assert topics["/irevla/command"]["type_description_hash"].startswith("RIHS01_")
    assert topics["/camera/image_raw"]["serialization_format"] == "cdr"


def test_type_hashes_are_those_of_the_built_interfaces() -> None:
    folder = interfaces.messages_folder()
    built = sorted(folder.glob("*.json"))
    if not built:
        import sys

        built = sorted((Path(sys.prefix) / "share" / "irevla_msgs" / "msg").glob("*.json"))
    if not built:
        pytest.skip("irevla_msgs is not built")
    for path in built:
        hashes = {item["type_name"]: item["hash_string"] for item in json.loads(path.read_text())["type_hashes"]}
        name = f"irevla_msgs/msg/{path.stem}"
        assert interfaces.type_hash(name) == hashes[name]


def test_reads_what_rosbags_wrote_in_every_storage(tmp_path: Path, bag_backend: str) -> None:
    rosbag2 = pytest.importorskip("rosbags.rosbag2")
    for plugin in (rosbag2.StoragePlugin.SQLITE3, rosbag2.StoragePlugin.MCAP):
        folder = tmp_path / plugin.name
        with rosbag2.Writer(folder, version=9, storage_plugin=plugin) as writer:
            connection = writer.add_connection(
                "/camera/image_raw", "sensor_msgs/msg/Image", typestore=interfaces.typestore()
            )
            for number in range(5):
                writer.write(connection, START + number, image(START + number, number))
        with closing(open_reader(folder)) as reader:
            frames = [reader.deserialize(message) for message in reader.messages()]
            assert [int(frame.data[0]) for frame in frames] == list(range(5))
            assert (reader.start_time, reader.end_time) == (START, START + 4)


def test_reads_compressed_chunks(tmp_path: Path, bag_backend: str) -> None:
    rosbag2 = pytest.importorskip("rosbags.rosbag2")
    writer = rosbag2.Writer(tmp_path / "bag", version=9, storage_plugin=rosbag2.StoragePlugin.MCAP)
    writer.set_compression(rosbag2.CompressionMode.STORAGE, rosbag2.CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection("/text", "std_msgs/msg/String", typestore=interfaces.typestore())
        for number in range(5):
            writer.write(connection, START + number, text(f"{number}"))
    with closing(open_reader(tmp_path / "bag")) as reader:
        assert [reader.deserialize(message).data for message in reader.messages()] == list("01234")


def test_a_bag_is_unfinished_until_it_is_finished(tmp_path: Path, bag_backend: str) -> None:
    writer = open_writer(tmp_path / "episode", TOPICS)
    writer.write("/irevla/instruction", text("x"), START)
    assert not (tmp_path / "episode").exists()
    assert [path.name for path in unfinished(tmp_path)] == ["episode"]
    with pytest.raises(BagError, match=r"holds no bag.*only 1 unfinished"):
        find_bags(tmp_path)
    writer.finish()
    assert find_bags(tmp_path) == [tmp_path / "episode"]
    assert not unfinished(tmp_path)


def test_never_overwrites(tmp_path: Path, bag_backend: str) -> None:
    write_bag(tmp_path / "episode")
    with pytest.raises(BagError, match="exists already"):
        open_writer(tmp_path / "episode", TOPICS)


def test_discard_leaves_nothing(tmp_path: Path, bag_backend: str) -> None:
    writer = open_writer(tmp_path / "episode", TOPICS)
    writer.write("/irevla/instruction", text("x"), START)
    writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_an_undeclared_topic_is_named(tmp_path: Path, bag_backend: str) -> None:
    writer = open_writer(tmp_path / "episode", TOPICS)
    with pytest.raises(BagError, match="/other was not declared"):
        writer.write("/other", b"", START)
    writer.discard()


def test_an_abandoned_bag_is_recovered(tmp_path: Path, bag_backend: str) -> None:
    writer = open_writer(tmp_path / "episode", TOPICS)
    writer.write("/irevla/instruction", text("x"), START)
    for number in range(30):
        writer.write("/camera/image_raw", image(START + number, number, size=64), START + number)
    left = writer.abandon()
    with pytest.raises(BagError, match="unfinished bag"):
        open_reader(left)
    result = recover(left)
    assert result.bag == tmp_path / "episode"
    assert result.messages == 31
    with closing(open_reader(result.bag)) as reader:
        frames = [reader.deserialize(message) for message in reader.messages(["/camera/image_raw"])]
    assert [int(frame.data[0]) for frame in frames] == list(range(30))
    assert not unfinished(tmp_path)
    information = yaml.safe_load((result.bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    described = [item["topic_metadata"] for item in information["topics_with_message_count"]]
    (instruction,) = [topic for topic in described if topic["name"] == "/irevla/instruction"]
    assert instruction["offered_qos_profiles"][0]["durability"] == "transient_local"


def test_what_ends_before_its_first_message_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IREVLA_BAG_BACKEND", "rosbags")
    left = open_writer(tmp_path / "episode", TOPICS).abandon()
    file = next(left.glob("*.mcap"))
    whole = file.read_bytes()
    # With half a record behind it there may have been more.
    file.write_bytes(whole + whole[len(whole) // 2 :][:20])
    assert recover(left).problem
    file.write_bytes(whole)
    result = recover(left)
    assert result.bag is None and not result.problem
    assert not left.exists()


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
def test_every_whole_message_of_a_cut_file_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setenv("IREVLA_BAG_BACKEND", "rosbags")
    bag = write_bag(tmp_path / "bags" / "episode", frames=500)
    left = tmp_path / "bags" / "unfinished" / "episode"
    left.parent.mkdir()
    bag.rename(left)
    (left / "metadata.yaml").unlink()
    file = left / "episode_0.mcap"
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.truncate(int(size * share))
    result = recover(left)
    # The last cut takes only the summary, which is made anew.
    assert bool(result.problem) == (share < 0.99)
    # 500 images of 256 bytes and their records; what is cut off is gone, no more.
    assert result.messages >= int(501 * share) - 60
    with closing(open_reader(tmp_path / "bags" / "episode")) as reader:
        count = sum(1 for _ in reader.messages())
    assert count == result.messages


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("missing", "no such bag"),
        ("no_metadata", "unfinished bag"),
        ("bad_metadata", "damaged or not the metadata"),
        ("no_file", "is missing"),
        ("empty_file", "the file is empty"),
        ("truncated", "truncated"),
        ("not_mcap", "not an MCAP file"),
        ("new_version", "newer than this program knows"),
        ("not_a_bag", "not a bag"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, bag_backend: str, damage: str, expected: str) -> None:
    bag = write_bag(tmp_path / "episode")
    file, metadata = bag / "episode_0.mcap", bag / "metadata.yaml"
    if damage == "missing":
        bag = tmp_path / "other"
    elif damage == "no_metadata":
        metadata.unlink()
    elif damage == "bad_metadata":
        metadata.write_text("rosbag2_bagfile_information: {version: [")
    elif damage == "no_file":
        file.unlink()
    elif damage == "empty_file":
        file.write_bytes(b"")
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif damage == "not_mcap":
        file.write_bytes(b"x" * 4096)
    elif damage == "new_version":
        metadata.write_text(metadata.read_text().replace("version: 9", "version: 12"))
    elif damage == "not_a_bag":
        metadata.unlink()
        file.unlink()
    with pytest.raises(BagError, match=expected) as caught:
        open_reader(bag)
    assert str(bag) in str(caught.value)


def test_a_flipped_bit_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IREVLA_BAG_BACKEND", "rosbags")
    bag = write_bag(tmp_path / "episode", frames=20)
    file = bag / "episode_0.mcap"
    data = bytearray(file.read_bytes())
    place = data.index(bytes([7] * 100))
    data[place + 50] ^= 1
    file.write_bytes(data)
    with closing(open_reader(bag)) as reader, pytest.raises(BagError, match="damaged"):
        list(reader.messages())


@pytest.mark.parametrize("checksum", [True, False])
def test_a_flipped_byte_is_named_or_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checksum: bool
) -> None:
    monkeypatch.setenv("IREVLA_BAG_BACKEND", "rosbags")
    bag = write_bag(tmp_path / "episode", frames=3)
    file = bag / "episode_0.mcap"
    data = bytearray(file.read_bytes())
    if not checksum:
        # Other writers may leave it out.
        data[-12:-8] = bytes(4)
        file.write_bytes(data)
    (summary,) = struct.unpack_from("<Q", data, len(data) - 28)

    def content() -> list[tuple[str, int, bytes]]:
        with closing(open_reader(bag)) as reader:
            return [(topic, time, bytes(message)) for topic, message, time in reader.messages()]

    whole, errors = content(), []
    # A few where they do harm for sure: the length, the id and the name of the summary's first record among them.
    places = {*range(summary, summary + 20), *range(0, len(data), len(data) // 60), *range(len(data) - 60, len(data))}
    for place in sorted(places):
        file.write_bytes(data[:place] + bytes([data[place] ^ 0x91]) + data[place + 1 :])
        try:
            assert content() == whole
        except BagError as error:
            errors.append(str(error))
    assert len(errors) > 30
    assert all(str(bag) in error for error in errors)


def test_a_topic_that_only_the_data_know_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IREVLA_BAG_BACKEND", "rosbags")
    bag = write_bag(tmp_path / "episode")
    file = bag / "episode_0.mcap"
    file.write_bytes(file.read_bytes().replace(b"/irevla/instruction", b"/irevla/instructioN", 1))
    with closing(open_reader(bag)) as reader, pytest.raises(BagError, match=r"damaged.*'/irevla/instructioN'"):
        list(reader.messages())


def test_messages_that_are_missing_are_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IREVLA_BAG_BACKEND", "rosbags")
    bag = write_bag(tmp_path / "episode")
    file = bag / "episode_0.mcap"
    data, place = bytearray(file.read_bytes()), len(MAGIC)
    while data[place] != CHUNK:
        place += RECORD.size + RECORD.unpack_from(data, place)[1]
    data[place] = MESSAGE_INDEX
    file.write_bytes(data)
    with closing(open_reader(bag)) as reader, pytest.raises(BagError, match=r"damaged: 0 of 1 messages"):
        list(reader.messages(["/irevla/instruction"]))


def test_an_unknown_backend_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IREVLA_BAG_BACKEND", "bagpipe")
    with pytest.raises(BagError, match=r"IREVLA_BAG_BACKEND.*rosbag2_py, rosbags.*'bagpipe'"):
        write_bag(tmp_path / "episode")
