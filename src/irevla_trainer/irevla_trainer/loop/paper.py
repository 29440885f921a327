"""The paper's own success rates on Meta-World (arXiv 2501.16664, ablation), for orientation beside ours."""

from __future__ import annotations

PAPER = {
    "sft": (0.83, 0.41, 0.51),
    "ppo_replay": (0.69, 0.35, 0.39),
    "frozen": (0.75, 0.79, 0.61),
    "ire_vla": (0.84, 0.89, 0.81),
}
"""Method to success on expert, RL and unseen tasks; `frozen`: the backbone is frozen in both stages."""
