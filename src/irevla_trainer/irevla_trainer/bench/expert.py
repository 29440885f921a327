"""`irevla bench expert`: scripted experts through the whole joint path, against driving Meta-World directly."""

from __future__ import annotations

from irevla_policy.robot.profile import load_profile
from irevla_policy.sim.expert_check import check_experts, share_kept
from irevla_trainer.bench.result import BenchResult, Target

EPISODES = 20
TARGETS = {"share_of_direct_success": Target(">=", 0.95)}


def run() -> BenchResult:
    """Measure over 10 tasks x 20 seeds."""
    results = check_experts(load_profile("sawyer"), seeds=range(EPISODES))
    figures = {"share_of_direct_success": share_kept(results)}
    details = {}
    for result in results:
        details[result.task] = {
            "direct": result.direct / result.episodes,
            "joints": result.joints / result.episodes,
            "direct_decisions": result.direct_steps,
            "joint_decisions": result.joint_steps,
        }
    figures["direct_success"] = sum(r.direct for r in results) / sum(r.episodes for r in results)
    figures["joint_success"] = sum(r.joints for r in results) / sum(r.episodes for r in results)
    return BenchResult("expert", figures, TARGETS, details)
