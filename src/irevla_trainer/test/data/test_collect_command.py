"""`irevla collect` over a folder that holds episodes already."""

from __future__ import annotations

from pathlib import Path

import pytest
from sample_episodes import write_episode

from irevla_trainer.cli import main


def collect(folder: Path, *words: str) -> int:
    return main(["collect", "--task", "reach", "--episodes", "1", "--out", str(folder), *words])


def test_an_episode_that_is_there_is_not_recorded_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_episode(tmp_path / "reach_000000", seed=0)
    assert collect(tmp_path) == 0
    assert "1 episodes (0 new), 1 successes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "found", "message"),
    [
        (["--robot", "sawyer_fine"], {}, "another robot, 'metaworld_sawyer' instead of"),
        ([], {"profile_hash": "0123456789ab"}, "another training hash of the robot's profile, '0123456789ab' instead"),
        ([], {"world": "kitchen"}, "another world, 'kitchen' instead of 'metaworld'"),
    ],
)
def test_an_episode_of_something_else_is_not_taken_for_the_one_that_is_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], found: dict[str, str], message: str
) -> None:
    write_episode(tmp_path / "reach_000000", seed=0, **found)
    assert collect(tmp_path, *words) == 2
    assert f"reach_000000: recorded with {message}" in capsys.readouterr().err
