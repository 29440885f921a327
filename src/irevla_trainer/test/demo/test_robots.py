"""Two robots share episodes; nodes in real processes, so that it takes a while."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from irevla_policy.errors import RunError
from irevla_policy.graph.environment import adopt_environment
from irevla_policy.model.checkpoint import save_checkpoint
from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.robot.profile import load_profile
from irevla_trainer.demo.robots import ROBOT, Robots, Wanted
from irevla_trainer.evaluate import EvaluationTask

pytestmark = pytest.mark.slow

DRAWER = EvaluationTask.parse("drawer-open")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, VLAPolicy.create(ModelSettings(), RobotFacts.of(load_profile(ROBOT))), {"training": "none"})
    return folder


def test_episodes_come_back_in_their_order_and_only_those_asked_for_are_recorded(
    tmp_path: Path, checkpoint: Path
) -> None:
    adopt_environment(private=True)
    wanted = [Wanted(DRAWER, seed, "kept" if seed == 2 else "") for seed in range(6)]
    shown: list[int] = []
    with Robots(checkpoint, "drawer-open", tmp_path / "bags", tmp_path / "logs", max_steps=10) as robots:
        ended = robots.run(wanted, lambda one, _: shown.append(one.seed))
        again = robots.run(wanted[:2], lambda *_: None)
    assert [one.seed for one in ended] == list(range(6))
    assert sorted(shown) == list(range(6))
    assert [one.bag is not None for one in ended] == [seed == 2 for seed in range(6)]
    assert [path.name for path in (tmp_path / "bags").iterdir() if path.is_dir()] == ["kept"]
    assert all(one.steps == 10 for one in ended)
    # Whichever robot took them.
    assert [(one.success, one.steps) for one in again] == [(one.success, one.steps) for one in ended[:2]]


def test_a_robot_that_breaks_ends_the_work_of_both(tmp_path: Path, checkpoint: Path) -> None:
    adopt_environment(private=True)
    done = 0

    def show(*_: object) -> None:
        nonlocal done
        done += 1
        if done == 1:
            children = psutil.Process().children(recursive=True)
            guards = [child for child in children if "guard_node" in " ".join(child.cmdline())]
            assert len(guards) == 2
            max(guards, key=lambda guard: guard.create_time()).kill()

    wanted = [Wanted(DRAWER, seed) for seed in range(1000)]
    with (
        Robots(checkpoint, "drawer-open", tmp_path / "bags", tmp_path / "logs") as robots,
        pytest.raises(RunError, match="node irevla_guard ended"),
    ):
        robots.run(wanted, show)
    assert done < 6
