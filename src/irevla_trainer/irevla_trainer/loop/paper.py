"""The paper's own success rates (arXiv 2501.16664), for orientation beside ours."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

KITCHEN_COLUMNS: dict[str, dict[str, float]] = {
    method: dict(
        zip(
            ("knob-on", "light-on", "microwave-open", "slide-door-open", "left-door-open", "slide-door-open:red",
             "slide-door-open:yellow"),
            values,
            strict=True,
        )
    )
    for method, values in {
        "sft": (0.84, 0.96, 0.70, 0.86, 0.43, 0.46, 0.98),
        "ppo_replay": (0.48, 0.64, 0.35, 0.96, 0.12, 0.30, 0.64),
        "ire_vla": (0.90, 0.98, 0.82, 0.99, 0.83, 0.99, 1.00),
    }.items()
}  # fmt: skip
"""Method to success on each task of Franka Kitchen."""


def _kitchen_categories(columns: Mapping[str, float]) -> dict[str, float]:
    red, yellow = columns["slide-door-open:red"], columns["slide-door-open:yellow"]
    return {
        "expert": round(float(np.mean([value for task, value in columns.items() if ":" not in task])), 3),
        "rl": round(float(np.mean([columns["left-door-open"], red])), 3),
        "unseen": yellow,
    }


PAPER: dict[str, dict[str, dict[str, float]]] = {
    "metaworld": {
        "sft": {"expert": 0.83, "rl": 0.41, "unseen": 0.51},
        "ppo_replay": {"expert": 0.69, "rl": 0.35, "unseen": 0.39},
        "frozen": {"expert": 0.75, "rl": 0.79, "unseen": 0.61},
        "ire_vla": {"expert": 0.84, "rl": 0.89, "unseen": 0.81},
    },
    "kitchen": {method: _kitchen_categories(columns) for method, columns in KITCHEN_COLUMNS.items()},
    "tabletop": {
        "sft": {"expert": 0.73, "rl": 0.35, "unseen": 0.37},
        "ire_vla": {"expert": 0.74, "rl": 0.80, "unseen": 0.61},
    },
}
"""World to method to success on expert, RL and unseen tasks; `frozen`: the backbone is frozen in both stages.

Those of the kitchen are means of its columns, the left door counted among both expert and RL tasks, as here. Those
of the tabletop are of a physical arm.
"""
