"""The trainer node in a process of its own, its training processes without a simulator, its jobs tiny."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

_TRAINER = Path(__file__).with_name("stand_in_trainer.py")

SFT = {"steps": 3, "batch_size": 4, "validation_share": 0.0}
CONFIG = {
    "tasks": ["drawer-open:blue"],
    "stage1": {"decisions": 40, "validation_episodes": 2, "ppo": {"episodes": 4, "warmup": 0, "minibatch": 8}},
    "stage2": {"sft": SFT},
    "sft": SFT,
    "validation_episodes": 2,
    "gate": {"episodes": 4, "looks": 2},
    "threads": 1,
    "priority": "normal",
}


def start_trainer(folder: Path, verdict: str = "", stderr: int | None = None, **changes: Any) -> subprocess.Popen:
    """Start the node.

    Args:
        folder: It works in `trainer` in it and watches `bags`.
        verdict: `open` to find every candidate better.
        stderr: As for Popen.
        changes: Settings of the trainer that are not as in `CONFIG`.
    """
    config = folder / "trainer.yaml"
    config.write_text(yaml.safe_dump(CONFIG | changes))
    parameters = {
        "config": str(config),
        "folder": str(folder / "trainer"),
        "watch": [str(folder / "bags")],
        "refresh": 0.5,
        "keep_free_gb": 0.0,
    }
    file = folder / "parameters.yaml"
    file.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}))
    words = [sys.executable, str(_TRAINER), "--ros-args", "--params-file", str(file)]
    return subprocess.Popen(words, env=os.environ | {"STAND_IN_GATE": verdict}, stderr=stderr)
