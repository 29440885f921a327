"""The promotion gate on a robot: a check on held-out demonstrations, then labelled trials that a person approves.

A candidate that passes the check waits. A person lets it drive with /irevla/load_policy, runs episodes and labels them;
each says in its bag which policy acted. After so many the candidate stays when it succeeded at all and did at least as
well as the policy before did in its own last ones of the same tasks; otherwise the policy before drives again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from irevla_policy.model.policy import VLAPolicy
from irevla_policy.recording.episode import CLASSIFIER
from irevla_trainer.data.index import IndexedEpisode
from irevla_trainer.evaluate import EvaluationTask
from irevla_trainer.jobs.settings import GateSettings
from irevla_trainer.learn.decisions import Decisions, EpisodeArrays
from irevla_trainer.learn.sft import evaluate_loss
from irevla_trainer.statistics import Rate


@dataclass(frozen=True)
class OfflineCheck:
    """The candidate on held-out demonstrations.

    Attributes:
        passed: Whether trials make sense.
        reason: In one sentence.
        episodes: Held-out episodes.
        before: Loss of the policy before; mean squared error of normalised actions.
        after: Loss of the candidate.
    """

    passed: bool
    reason: str
    episodes: int
    before: float
    after: float

    def to_json(self) -> dict[str, Any]:
        """Plain values; keys as the attributes."""
        return asdict(self)


def check_offline(
    before: VLAPolicy, after: VLAPolicy, held_out: Sequence[EpisodeArrays], settings: GateSettings
) -> OfflineCheck:
    """Whether a candidate may be tried on the robot.

    Args:
        before: The serving policy.
        after: The candidate.
        held_out: Demonstrations that it was not trained on; without any the check passes.
        settings: Of the gate.
    """
    if not held_out:
        return OfflineCheck(True, "no demonstrations were held out to check it on", 0, 0.0, 0.0)
    losses = [
        evaluate_loss(policy, Decisions(held_out, policy.robot.cameras, policy.settings.chunk))
        for policy in (before, after)
    ]
    passed = losses[1] <= settings.worse_loss * losses[0]
    figures = f"loss on {len(held_out)} held-out demonstrations {losses[0]:.4f} -> {losses[1]:.4f}"
    reason = (
        figures if passed else f"{figures}, more than {settings.worse_loss:g} times as much: not tried on the robot"
    )
    return OfflineCheck(passed, reason, len(held_out), *losses)


@dataclass(frozen=True)
class TrialsVerdict:
    """What the trials say.

    Attributes:
        promoted: Whether the candidate stays.
        reason: In one sentence with the figures.
        before: Success of the policy before in its last labelled episodes of the same tasks; None without any.
        after: Success of the candidate.
    """

    promoted: bool
    reason: str
    before: Rate | None
    after: Rate

    def to_json(self) -> dict[str, Any]:
        """Plain values; keys as the attributes."""
        return {
            "promoted": self.promoted,
            "reason": self.reason,
            "before": self.before.to_json() if self.before else None,
            "after": self.after.to_json(),
        }


def judge_trials(
    episodes: Sequence[IndexedEpisode], base: str, candidate: str, settings: GateSettings
) -> TrialsVerdict | None:
    """What the labelled episodes of both policies say; None while there are too few of the candidate.

    Args:
        episodes: All that are known.
        base: Version of the policy before.
        candidate: Version of the candidate.
        settings: Of the gate.
    """
    after = _labelled(episodes, candidate)[: settings.trials]
    if len(after) < settings.trials:
        return None
    before = _last_of_each(_labelled(episodes, base), Counter(task for task, _ in after))
    ours = Rate(sum(success for _, success in after), len(after))
    kept, theirs = ours.successes > 0, None
    done = Counter(task for task, _ in before)
    both = [(task, success) for task, success in after if done[task]]
    # A few lucky ones are nothing to be measured by.
    if 0 < len(both) <= 2 * len(before):
        theirs = Rate(sum(success for _, success in before), len(before))
        # What the policy before would have come to on the candidate's mixture of tasks.
        expected = sum(sum(ended for of, ended in before if of == task) / done[task] for task, _ in both)
        kept = kept and sum(success for _, success in both) >= expected - 1e-9
    against = f"{theirs.successes} of {theirs.episodes} of the policy before" if theirs else "nothing to compare with"
    word = "stays" if kept else "is rolled back"
    reason = f"the candidate {word}: {ours.successes} of {ours.episodes} trials succeeded, {against}"
    return TrialsVerdict(kept, reason, theirs, ours)


def trials_so_far(episodes: Sequence[IndexedEpisode], candidate: str) -> int:
    """Labelled episodes of the candidate."""
    return len(_labelled(episodes, candidate))


def _last_of_each(labelled: list[tuple[str, bool]], wanted: Counter[str]) -> list[tuple[str, bool]]:
    """The last episodes, of each task at most as many as are wanted."""
    chosen = []
    for task, success in reversed(labelled):
        if wanted[task] > 0:
            wanted[task] -= 1
            chosen.append((task, success))
    return chosen


def _labelled(episodes: Sequence[IndexedEpisode], version: str) -> list[tuple[str, bool]]:
    """Task and success of a policy's labelled episodes, in the order of their ends.

    With help it has not succeeded: whoever takes over where it is about to fail would else leave its successes alone.
    What a classifier has labelled does not count: it says yes or nothing.
    """
    found = [
        episode.info
        for episode in episodes
        if episode.info is not None
        and not episode.problem
        and (episode.info.policy_version, episode.info.state) == (version, "finished")
        and episode.info.source in ("policy", "mixed")
        and episode.info.success != "unknown"
        and episode.info.labelled_by != CLASSIFIER
    ]
    found.sort(key=lambda info: info.stamp)
    return [
        (str(EvaluationTask(info.task, info.variation)), info.success == "yes" and info.source == "policy")
        for info in found
    ]
