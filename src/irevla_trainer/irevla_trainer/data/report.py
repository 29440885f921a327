"""What was taken from a bag, what was left out, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

BY_OBSERVATION = "observation stamps of /irevla/command"
BY_HEADER = "header stamps"


@dataclass
class BagReport:
    """The account of one bag.

    Attributes:
        path: The bag.
        episode_id: Name of the episode; that of the folder in bags without an EpisodeInfo.
        task: Task; empty when the bag names none.
        instruction: Instruction of the first decision.
        source: Who acted; empty when the bag does not say.
        success: `yes`, `no` or `unknown`.
        aligned_by: How decisions and sensor messages were brought together.
        used: Decisions used.
        dropped: Reason to decisions left out.
        notes: What else the reader should know.
        left_out: Why the episode was not wanted (a filter); empty when it was.
        problem: Why the bag gives no episode, in one sentence; empty when it does.
    """

    path: str
    episode_id: str = ""
    task: str = ""
    instruction: str = ""
    source: str = ""
    success: str = "unknown"
    aligned_by: str = ""
    used: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    left_out: str = ""
    problem: str = ""

    def note(self, text: str) -> None:
        """Add a remark once."""
        if text not in self.notes:
            self.notes.append(text)

    def to_json(self) -> dict[str, Any]:
        """Plain values; the keys are the attributes."""
        return dict(vars(self)) | {"dropped": dict(sorted(self.dropped.items())), "notes": list(self.notes)}

    def __str__(self) -> str:
        if self.problem:
            return f"{self.path}: not used: {self.problem}"
        if self.left_out:
            return f"{self.path}: left out: {self.left_out}"
        what = self.task or self.instruction
        dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.items()))
        parts = [f"{self.path}: {what!r}, success {self.success}, {self.used} decisions"]
        parts += [f"dropped {dropped}"] if dropped else []
        return "; ".join([*parts, *self.notes])


def summary(reports: Sequence[BagReport]) -> str:
    """All bags in a few words."""
    used = [report for report in reports if report.used]
    left_out = sum(bool(report.left_out) for report in reports)
    bad = sum(bool(report.problem) for report in reports)
    decisions = sum(report.used for report in used)
    dropped = sum(sum(report.dropped.values()) for report in used)
    rest = (f", {left_out} left out" if left_out else "") + (f", {bad} with problems" if bad else "")
    return f"{len(used)} of {len(reports)} bags used{rest}: {decisions} decisions, {dropped} dropped"
