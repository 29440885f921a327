"""A recovery that is killed goes on where it was: the episode comes back under its name, once and whole."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sample_bags import TOPICS, image, text, write_bag

from irevla_policy.recording import topics
from irevla_policy.recording.episode import MESSAGE_TYPE, EpisodeInfo
from irevla_policy.recording.interfaces import deserialize
from irevla_policy.recording.recovery import recover, unfinished
from irevla_policy.recording.storage import BagError, find_bags, open_reader, open_writer

START = 1_700_000_000_000_000_000
FRAMES = 40


@pytest.fixture(autouse=True)
def _python_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IREVLA_BAG_BACKEND", "rosbags")


def cut_off(folder: Path) -> Path:
    """What a killed recorder leaves of the bag `folder`."""
    writer = open_writer(folder, TOPICS)
    writer.write(topics.INSTRUCTION, text("x"), START)
    writer.write(topics.EPISODE_INFO, EpisodeInfo(folder.name).serialize(), START)
    for number in range(FRAMES):
        writer.write("/camera/image_raw", image(START + number, number, size=64), START + number)
    return writer.abandon()


def states(bag: Path) -> list[str]:
    """The states that the bag's descriptions say, and that nothing is missing in it."""
    with closing(open_reader(bag)) as reader:
        messages = list(reader.messages())
    frames = [deserialize(m.data, "sensor_msgs/msg/Image") for m in messages if m.topic == "/camera/image_raw"]
    assert [int(frame.data[0]) for frame in frames] == list(range(FRAMES))
    infos = [deserialize(m.data, MESSAGE_TYPE) for m in messages if m.topic == topics.EPISODE_INFO]
    return [EpisodeInfo.from_message(info).state for info in infos]


def killed(left: Path, step: int) -> bool:
    """Recover in a process that is killed at its so-manieth step on the disk; whether it came so far."""
    child = os.fork()
    if not child:
        _recover_until(left, step)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def _recover_until(left: Path, step: int) -> None:
    writev = os.writev

    def last() -> bool:
        nonlocal step
        step -= 1
        return step == 0

    def before(event: str, args: tuple[Any, ...]) -> None:
        opens = event == "open" and str(args[0]).startswith(str(left))
        if (opens or event in ("os.rename", "os.mkdir", "os.rmdir", "os.remove")) and last():
            os.kill(os.getpid(), signal.SIGKILL)

    def write_half(file: int, parts: list[bytes | memoryview]) -> int:
        if last():
            whole = b"".join(parts)
            os.write(file, whole[: len(whole) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return writev(file, parts)

    try:
        os.writev = write_half
        sys.addaudithook(before)
        recover(left)
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.slow
def test_a_recovery_may_be_killed_at_any_step(tmp_path: Path) -> None:
    original = cut_off(tmp_path / "before" / "episode")
    seen: set[tuple[str, ...]] = set()
    for step in itertools.count(1):
        folder = tmp_path / f"killed_{step}"
        left = folder / "unfinished" / "episode"
        shutil.copytree(original, left)
        if not killed(left, step):
            break
        seen.add(tuple(sorted(path.name for path in folder.rglob("*") if path.is_file())))
        # The next one is killed as well, on its way.
        for place in unfinished(folder):
            killed(place, step // 2 + 1)
        for place in unfinished(folder):
            assert recover(place).bag == folder / "episode"
        assert not unfinished(folder) and find_bags(folder) == [folder / "episode"]
        assert states(folder / "episode") == ["recording", "aborted"]
    # Before it wrote, while it wrote, with the original and the copy, and with the copy alone.
    names = ("episode_0.mcap", "episode_0.mcap", "metadata.yaml")
    assert {names[:1], names[:2], names, names[1:]} <= seen


def test_metadata_that_were_cut_off_are_made_anew(tmp_path: Path) -> None:
    left = cut_off(tmp_path / "episode")
    (left / "metadata.yaml").write_text("rosbag2_bagfile_information:\n  version: 9\n  storage_ident")
    assert recover(left).bag == tmp_path / "episode"
    assert states(tmp_path / "episode") == ["recording", "aborted"]
    assert [path.name for path in tmp_path.iterdir()] == ["episode"]


def test_a_recovery_that_fails_leaves_all_as_it_was(tmp_path: Path) -> None:
    left = cut_off(tmp_path / "episode")
    write_bag(tmp_path / "other").rename(tmp_path / "episode")
    before = {path.name: path.read_bytes() for path in left.iterdir()}
    with pytest.raises(BagError, match="exists already; move it away to recover"):
        recover(left)
    assert {path.name: path.read_bytes() for path in left.iterdir()} == before
