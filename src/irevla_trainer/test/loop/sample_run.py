"""Folders of runs as `irevla train` leaves them, made of a few files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from irevla_policy.settings import from_dict, to_dict
from irevla_trainer.loop.settings import TrainFile
from irevla_trainer.statistics import Rate

EXPERT, RL, UNSEEN = ("drawer-open", "window-open"), ("drawer-open:blue", "window-close:new"), ("window-open:blue",)
EPISODES = 10


def categories(successes: int, episodes: int = EPISODES) -> dict[str, Any]:
    """An evaluation in which every task has so many successes; the RL tasks one fewer."""

    def of(names: tuple[str, ...], count: int) -> dict[str, Any]:
        one = Rate(count, episodes).to_json() | {"mean_steps": 21.5}
        pooled = Rate(count * len(names), episodes * len(names)).to_json()
        return pooled | {"tasks": dict.fromkeys(names, one)}

    return {"expert": of(EXPERT, successes), "rl": of(RL, successes - 1), "unseen": of(UNSEEN, successes)}


def ppo_line(iteration: int, decisions: int) -> dict[str, float]:
    """Metrics of one iteration of PPO."""
    return {
        "value_error": 0.5 / iteration,
        "explained_variance": -3.0 if iteration == 1 else 0.6,
        "policy_loss": -0.01 * iteration,
        "value_loss": 0.1 / iteration,
        "kl": 0.004 * iteration,
        "clipped": 0.05,
        "updates": 8.0,
        "iteration": float(iteration),
        "decisions": float(decisions),
        "rollout_success": min(0.2 * iteration, 1.0),
    }


class SampleRun:
    """Grows step by step, as a run does."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        folder.mkdir()
        tasks = {"expert": list(EXPERT), "rl": list(RL), "unseen": list(UNSEEN)}
        values = to_dict(from_dict(TrainFile, {"tasks": tasks} | settings))
        (folder / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))

    def step(self, name: str, values: dict[str, Any] | None, metrics: list[dict[str, float]] | None = None) -> Path:
        """A step: done with these values, or under way."""
        path = self.folder / "steps" / name
        path.mkdir(parents=True, exist_ok=True)
        if values is not None:
            (path / "step.json").write_text(json.dumps(values | {"seconds": 12.5}))
        if metrics is not None:
            (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
        return path

    def evaluated(self, name: str, successes: int) -> None:
        """The validation after a step."""
        self.step(f"{name}-validation", {"categories": categories(successes)})

    def supervised(self, name: str, loss: float, **values: Any) -> None:
        """Stage 0 or 2 and its validation."""
        lines = [{"step": step, "loss": loss * 300 / step, "learning_rate": 1e-4} for step in (100, 200, 300)]
        self.step(name, {"steps": 300, "loss": loss, "validation_loss": None} | values, lines)

    def reinforced(self, number: int, task: str, decisions: int) -> str:
        """Stage 1 of a task."""
        name = f"{number:02d}-stage1-{task.replace(':', '-')}"
        lines: list[dict[str, float]] = [{"iteration": 0.0, "decisions": 0.0, "validation_success": 0.1}]
        lines += [ppo_line(iteration, iteration * decisions // 4) for iteration in (1, 2, 3, 4)]
        lines[-1]["validation_success"] = 0.9
        values = {"task": task, "decisions": decisions, "episodes": 1234, "successes": 777, "kept_successes": 200}
        self.step(name, values | {"before": 0.15, "after": 0.85, "ended": "converged"}, lines)
        return name

    def until_stage_0(self) -> None:
        """Stage 0, evaluated."""
        self.supervised("00-stage0", 0.0321)
        self.evaluated("00-stage0", 4)

    def task(self, number: int, task: str, decisions: int, successes: int) -> str:
        """Stages 1 and 2 of a task, evaluated; the name of stage 2."""
        name = self.reinforced(number, task, decisions)
        self.evaluated(name, successes)
        last = name.replace("stage1", "stage2")
        self.supervised(last, 0.0456, success_episodes=150)
        self.evaluated(last, successes + 1)
        return last

    def finished(self, films: dict[str, bool] | None = None) -> None:
        """All of it."""
        self.until_stage_0()
        selected = "00-stage0"
        for number, task in enumerate(RL, start=1):
            selected = self.task(number, task, 4000 * number, 4 + 2 * number)
        names = films or {}
        test = {
            "categories": categories(43, 50),
            "films": {f"steps/99-test/{name}.mp4": ok for name, ok in names.items()},
        }
        path = self.step("99-test", test)
        for name in names:
            (path / f"{name}.mp4").write_bytes(f"film of {name}".encode())
        chosen = {"step": selected, "version": "0123456789ab", "checkpoint": "checkpoint"}
        result = {"selected": chosen, "test": test["categories"], "films": test["films"]}
        (self.folder / "result.json").write_text(json.dumps(result))
