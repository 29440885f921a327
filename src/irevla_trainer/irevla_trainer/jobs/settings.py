"""Settings of the promotion gate."""

from __future__ import annotations

from dataclasses import dataclass

from irevla_policy.settings import setting


@dataclass(frozen=True)
class GateSettings:
    """When a candidate replaces the serving policy."""

    mode: str = setting(
        "simulation",
        "What decides: episodes of both policies in simulation, or trials of the candidate on the robot that a person "
        "approves and labels",
        choices=("simulation", "trials"),
    )
    episodes: int = setting(50, "Episodes per task and policy between two looks", at_least=1)
    looks: int = setting(3, "Looks at most, each after so many more episodes", at_least=1)
    confidence: float = setting(
        0.95, "Confidence that a promoted policy is better, over all looks", above=0.0, at_most=0.9999
    )
    margin: float = setting(
        0.05, "How much worse a promoted policy may be on tasks that it was not trained on", at_least=0.0, at_most=1.0
    )
    trials: int = setting(10, "Labelled trials on the robot", at_least=1)
    held_out: float = setting(
        0.1,
        "Share of the demonstrations that a candidate for trials is checked on instead of being trained on",
        at_least=0.0,
        at_most=0.5,
    )
    worse_loss: float = setting(
        1.1, "Loss on these, relative to that of the policy before, above which there are no trials", above=0.0
    )
