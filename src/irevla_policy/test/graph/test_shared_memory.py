"""Shared memory of killed processes, given back."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from irevla_policy.graph.environment import default_environment
from irevla_policy.graph.shared_memory import reclaim

SHARED_MEMORY = Path("/dev/shm")
NODE = "import rclpy, time; rclpy.init(); node = rclpy.create_node('held'); print('up', flush=True); time.sleep(60)"


def segments() -> set[str]:
    """The large segments in shared memory, with their locks."""
    return {path.name for path in SHARED_MEMORY.glob("fastrtps_*") if "port" not in path.name}


def age(names: set[str]) -> None:
    """As if these had been created a minute ago."""
    then = time.time() - 60
    for name in names:
        os.utime(SHARED_MEMORY / name, (then, then))


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="this machine has no /dev/shm")
def test_only_what_no_process_holds_is_given_back() -> None:
    before = segments()
    node = subprocess.Popen(
        [sys.executable, "-c", NODE], env={**default_environment(), **os.environ}, stdout=subprocess.PIPE
    )
    try:
        assert node.stdout is not None
        assert node.stdout.readline() == b"up\n"
        own = segments() - before
        age(own)
        reclaim()
        assert own, "the node has no shared memory"
        assert own <= segments(), "a running node lost its shared memory"
        node.kill()
        node.wait()
        assert own <= segments(), "the middleware removed it by itself; then nothing is left to do here"
        assert reclaim() >= 60_000_000
        assert not own & segments()
    finally:
        node.kill()
        node.wait()
        if node.stdout is not None:
            node.stdout.close()


def test_a_segment_whose_process_is_just_starting_is_left_alone(tmp_path: Path) -> None:
    for name in ("fastrtps_0123456789abcdef", "fastrtps_0123456789abcdef_el"):
        (tmp_path / name).write_bytes(b"x" * 4096)
    assert reclaim(tmp_path) == 0
    assert len(list(tmp_path.iterdir())) == 2


def test_foreign_files_and_a_missing_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "fastrtps_port7000").write_bytes(b"x")
    (tmp_path / "fastrtps_port7000_el").write_bytes(b"")
    age_then = time.time() - 60
    os.utime(tmp_path / "fastrtps_port7000_el", (age_then, age_then))
    assert reclaim(tmp_path) == 0
    assert len(list(tmp_path.iterdir())) == 2
    assert reclaim(tmp_path / "missing") == 0
