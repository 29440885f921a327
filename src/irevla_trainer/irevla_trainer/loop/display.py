"""What a run shows while it works: bars with the time left on a terminal, lines elsewhere, scalars for TensorBoard."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from irevla_trainer.loop.settings import Stage1Settings

_PAUSE = 5.0
"""s between two lines of progress where there is no terminal."""


@dataclass(frozen=True)
class Doing:
    """What a run does at a moment.

    Attributes:
        kind: 'reading', 'sft', 'rl' or 'evaluation'.
        title: For people.
        task: The task at hand; empty for all.
        done: Bags, updates, decisions or episodes so far.
        total: How many there will be, at most.
        success: Of the newest rollout or evaluation; None when this is about something else.
        loss: Newest training loss; None when this is about something else.
    """

    kind: str
    title: str
    task: str
    done: int
    total: int
    success: float | None = None
    loss: float | None = None


class Display:
    """Progress of a run.

    Args:
        folder: Of the run; scalars go to `tensorboard` in it.
        watch: Called whenever something has gone on.
    """

    def __init__(self, folder: Path, watch: Callable[[Doing], None] = lambda doing: None) -> None:
        self._writer = SummaryWriter(str(folder / "tensorboard"))
        self._watch = watch

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        """Write what is left."""
        self._writer.close()

    def say(self, text: str) -> None:
        """One line."""
        tqdm.write(text, file=sys.stderr)

    @contextmanager
    def bags(self) -> Iterator[Callable[[int, int, Any], None]]:
        """While bags are read."""
        with _Bar("reading bags", "bag") as bar:

            def show(done: int, total: int, report: Any) -> None:
                if report.problem:
                    self.say(str(report))
                bar.show(done, total)
                self._watch(Doing("reading", "reading bags", "", done, total))

            yield show

    @contextmanager
    def updates(self, title: str, task: str = "") -> Iterator[Callable[[int, int, dict[str, float]], None]]:
        """During supervised fine-tuning.

        Args:
            title: Of the stage.
            task: The task that it follows; empty for none.
        """
        with _Bar(title, "update") as bar:

            def show(step: int, total: int, figures: dict[str, float]) -> None:
                bar.show(step, total, f"loss {figures['loss']:.4f}")
                self._watch(Doing("sft", title, task, step, total, loss=figures["loss"]))
                if step % 50 == 0:
                    self._scalar(f"{title}/loss", figures["loss"], step)

            yield show

    @contextmanager
    def iterations(
        self, title: str, task: str, settings: Stage1Settings
    ) -> Iterator[Callable[[dict[str, float]], None]]:
        """During reinforcement learning.

        Args:
            title: Of the stage.
            task: That is learnt.
            settings: Of the stage.
        """
        with _Bar(title, "decision") as bar:

            def show(figures: dict[str, float]) -> None:
                decisions = int(figures["decisions"])
                success, total = figures["rollout_success"], settings.decisions
                bar.show(decisions, total, f"success {success:.2f}")
                done = min(decisions, total)
                if settings.iterations:
                    done, total = int(figures["iteration"]), settings.iterations
                self._watch(Doing("rl", title, task, done, total, success=success))
                for name, value in figures.items():
                    self._scalar(f"{title}/{name}", value, decisions)

            yield show

    @contextmanager
    def episodes(self, title: str) -> Iterator[Callable[[int, int], None]]:
        """During an evaluation."""
        with _Bar(title, "episode") as bar:

            def show(done: int, total: int) -> None:
                bar.show(done, total)
                self._watch(Doing("evaluation", title, "", done, total))

            yield show

    def evaluation(self, step: str, categories: dict[str, Any], decisions: int | None) -> None:
        """The outcome of an evaluation.

        Args:
            step: What was evaluated.
            categories: Category to its success.
            decisions: By reinforcement learning until then; None for an outcome that is known from an earlier process.
        """
        shown = "  ".join(
            f"{name} {values['success']:.2f} [{values['low']:.2f}, {values['high']:.2f}]"
            for name, values in categories.items()
        )
        self.say(f"{step}: {shown}")
        success = sum(values["success"] for values in categories.values()) / len(categories)
        self._watch(Doing("evaluation", f"validation after {step}", "", 1, 1, success))
        if decisions is not None:
            for name, values in categories.items():
                self._scalar(f"validation/{name}", values["success"], decisions)

    def _scalar(self, name: str, value: float, step: int) -> None:
        self._writer.add_scalar(name.replace(",", "").replace(" ", "_").replace(":", "-"), value, step)


class _Bar:
    """A bar with the time left on a terminal; elsewhere a line for every tenth, but none soon after another."""

    def __init__(self, title: str, unit: str) -> None:
        self._title, self._unit = title, unit
        self._bar: Any = None
        self._tenths = 0
        self._started = self._said = time.monotonic()
        self._first: int | None = None
        self._unsaid = ""

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._unsaid:
            print(self._unsaid, file=sys.stderr, flush=True)

    def show(self, done: int, total: int, text: str = "") -> None:
        """Show how far it is."""
        self._first = done if self._first is None else self._first
        now = time.monotonic()
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm(
                    total=total, initial=done, unit=self._unit, desc=self._title, dynamic_ncols=True, leave=False
                )
            self._bar.update(done - self._bar.n)
            self._bar.set_postfix_str(text, refresh=False)
            return
        spent, made = now - self._started, done - self._first
        rest = f", {spent / made * (total - done):.0f} s left" if made and done < total else ""
        self._unsaid = f"{self._title}: {done}/{total} {self._unit}s{', ' + text if text else ''}{rest}"
        if done * 10 // total > self._tenths and now - self._said > _PAUSE:
            print(self._unsaid, file=sys.stderr, flush=True)
            self._tenths, self._said, self._unsaid = done * 10 // total, now, ""
