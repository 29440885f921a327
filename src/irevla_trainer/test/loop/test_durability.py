"""Whatever ends `irevla train`, and whenever: --resume ends with what an uninterrupted run ends with."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from sample_episodes import write_episode

from irevla_policy.model.checkpoint import checkpoint_version

CAMPAIGN = Path(__file__).with_name("campaign.py")


@pytest.fixture(scope="module", params=["ppo", pytest.param("sacfd", marks=pytest.mark.slow)])
def setting(request, tmp_path_factory):
    """A configuration, and what an uninterrupted run with it ends with."""
    folder = tmp_path_factory.mktemp("durability")
    for number in range(2):
        write_episode(folder / "bags" / f"drawer-{number}", steps=4, task="drawer-open")
    stage1 = {
        "algorithm": request.param,
        "decisions": 36,
        "validation_episodes": 2,
        "validate_every": 2,
        "successes": 6,
        "ppo": {"episodes": 4, "warmup": 1, "minibatch": 8},
        "sacfd": {"episodes": 4, "demonstrations": 2, "capacity": 2048, "batch_size": 4, "warmup": 2, "critics": 2},
    }
    sft = {"steps": 3, "batch_size": 2, "save_every": 0.001, "average": 0.9}
    settings = {
        "tasks": {"expert": ["drawer-open"], "rl": ["drawer-open:blue"]},
        "bags": [str(folder / "bags")],
        "stage0": sft | {"validation_share": 0.5},
        "stage1": stage1,
        "stage2": {"sft": sft | {"validation_share": 0.0}},
        "evaluation": {"validation_episodes": 2, "test_episodes": 2, "filmed": 0},
        "threads": 1,
    }
    config = folder / "train.yaml"
    config.write_text(yaml.safe_dump(settings))
    (whole,) = campaign(config, signal.SIGKILL, folder / "whole", [])
    assert whole["code"] == 0, whole["errors"]
    return config, state_of(folder / "whole"), whole["moments"]


def campaign(config: Path, number: signal.Signals, out: Path, moments: list[int]) -> list[dict]:
    words = [sys.executable, CAMPAIGN, config, int(number), out, *moments]
    done = subprocess.run([str(word) for word in words], stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def state_of(run: Path) -> dict:
    """All that a run ends with, but times."""

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if key not in ("seconds", "decisions_per_second")}
        return value

    lines = {
        str(path.relative_to(run)): [plain(json.loads(line)) for line in path.open()]
        for path in run.glob("steps/*/metrics.jsonl")
    }
    versions = {str(path.relative_to(run)): checkpoint_version(path) for path in run.rglob("checkpoint")}
    kept = sorted(str(path.relative_to(run)) for path in run.glob("steps/*/*"))
    successes = sorted(str(path.relative_to(run)) for path in run.glob("steps/*/successes/*/*"))
    result = plain(json.loads((run / "result.json").read_text()))
    return {"result": result, "metrics": lines, "versions": versions, "kept": kept, "successes": successes}


def drawn(count: int, most: int, seed: int) -> list[int]:
    return [random.Random(seed * 1000 + place).randint(1, most) for place in range(count)]


def check_kills(setting, out: Path, moments: list[int]) -> None:
    config, whole, _ = setting
    attempts = campaign(config, signal.SIGKILL, out, moments)
    assert attempts[-1]["code"] == 0, attempts[-1]["errors"]
    assert attempts[0]["code"] == -signal.SIGKILL
    for one in attempts[:-1]:
        assert one["code"] in (-signal.SIGKILL, 0), one["errors"]
    assert state_of(out) == whole


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(setting, tmp_path):
    check_kills(setting, tmp_path / "run", drawn(3, setting[2] // 2, seed=1))


@pytest.mark.slow
def test_ctrl_c_is_one_line_and_changes_nothing(setting, tmp_path):
    config, whole, moments = setting
    attempts = campaign(config, signal.SIGINT, tmp_path / "run", drawn(2, moments // 2, seed=2))
    assert attempts[0]["code"] == 130
    for one in attempts[:-1]:
        assert one["code"] in (130, 0), one["errors"]
        if one["code"] == 130:
            assert one["errors"][-1] == "irevla train: interrupted"
            assert not [line for line in one["errors"] if "Traceback" in line or "Error" in line]
    assert attempts[-1]["code"] == 0
    assert state_of(tmp_path / "run") == whole


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", [1, 3, 5, 7])
def test_a_kill_at_every_second_moment_changes_nothing(setting, tmp_path, first):
    for moment in range(first, setting[2] + 1, 8):
        check_kills(setting, tmp_path / f"{moment}", [moment])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(5))
def test_many_kills_at_random_moments_change_nothing(setting, tmp_path, seed):
    check_kills(setting, tmp_path / "run", drawn(20, setting[2] // 3, seed=10 + seed))
