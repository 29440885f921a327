"""Supervised fine-tuning: mean squared error on normalised actions (stages 0 and 2 of iRe-VLA).

    for each batch of (observation, action) from the demonstrations:
        loss = mean over real steps of (policy(observation) - normalised action)^2
        one step of AdamW, learning rate warmed up and then lowered along a cosine

Every random draw follows from the seed and the step alone, so a resumed run ends where an uninterrupted one would.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from irevla_policy.errors import RunError, UserError
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.settings import to_dict
from irevla_trainer.learn.decisions import Batch, Decisions, TrainingBatch, prepare, random_colour, random_shift
from irevla_trainer.learn.prefetch import prefetch
from irevla_trainer.learn.settings import SftSettings
from irevla_trainer.learn.stopping import held_signals
from irevla_trainer.learn.training_state import TrainingState, read_state, write_state


@dataclass(frozen=True)
class SftResult:
    """How a run ended.

    Attributes:
        steps: Updates made.
        loss: Training loss, mean of the last reports.
        validation_loss: On the held-out episodes; None without any.
        seconds: Time spent in training, resumed parts included.
    """

    steps: int
    loss: float
    validation_loss: float | None
    seconds: float


class TrainingError(RunError):
    """Training cannot go on; says at which step, why, and where the last good state is."""


class ResumeError(UserError, ValueError):
    """The state of an earlier run does not belong to this data and these settings."""


def train(
    policy: VLAPolicy,
    training: Decisions,
    validation: Decisions | None,
    settings: SftSettings,
    folder: Path,
    progress: Callable[[int, int, dict[str, float]], None] = lambda step, total, figures: None,
    start: str = "",
) -> SftResult:
    """Fine-tune a policy in place.

    Continues from `folder` when it holds the state of an interrupted run with the same data and settings.

    Args:
        policy: What to train; what of its backbone learns is set by its own settings.
        training: Demonstrations.
        validation: Held-out demonstrations, or None.
        settings: Of the run.
        folder: Holds `metrics.jsonl` (one JSON object a line: step, epoch, loss, learning_rate, seconds,
            decisions_per_second and, after a validation, validation_loss) and the training state. That stays after the
            end, when the same call returns at once: `remove_state` it when the weights are in a safe place.
        progress: Called after each update with step, number of steps and the newest figures.
        start: What the policy is at first, where settings and data do not say: version of its checkpoint. A run that
            began from another one is not continued.

    Raises:
        ResumeError: The folder's state is of another run.
        TrainingError: The loss is not finite.
        KeyboardInterrupt: Stopped by SIGINT (SIGTERM: what its handler raises) after the update at hand; the state is
            saved, and the same call continues.
    """
    return _Run(policy, training, validation, settings, folder, progress, start).run()


class _Run:
    """One run of SFT, from the first or a resumed step to the last."""

    def __init__(
        self,
        policy: VLAPolicy,
        training: Decisions,
        validation: Decisions | None,
        settings: SftSettings,
        folder: Path,
        progress: Callable[[int, int, dict[str, float]], None],
        start: str,
    ) -> None:
        if not len(training):
            raise ResumeError("no decisions to learn from")
        self.policy, self.settings, self.folder, self.progress = policy, settings, folder, progress
        self.training, self.start = training, start
        self.validation = validation if validation is not None and len(validation) else None
        self.batch_size = min(settings.batch_size, training.epoch_length)
        self.steps_per_epoch = max(training.epoch_length // self.batch_size, 1)
        self.total = settings.steps or math.ceil(settings.epochs * self.steps_per_epoch)
        if settings.trains == "heads":
            policy.freeze_backbone()
        else:
            policy.unfreeze_backbone()
        self.weights = {name: p for name, p in policy.named_parameters() if p.requires_grad}
        self.optimizer = self._make_optimizer()
        self.average = {name: p.detach().clone() for name, p in self.weights.items()} if settings.average else {}
        self.step, self.seconds = 0, 0.0
        self._ordered, self._order = -1, np.zeros(0, dtype=np.int64)
        self.losses: list[float] = []
        self.last_loss = math.nan
        self.validation_loss: float | None = None

    def _make_optimizer(self) -> torch.optim.AdamW:
        slow = self.settings.backbone_learning_rate or self.settings.learning_rate
        groups = []
        for prefix, rate in (("backbone.", slow), ("action_head.", self.settings.learning_rate)):
            weights = [p for name, p in self.weights.items() if name.startswith(prefix)]
            groups.append({"params": weights, "lr": rate, "peak": rate})
        return torch.optim.AdamW(
            [g for g in groups if g["params"]],
            betas=(0.9, 0.95),
            weight_decay=self.settings.weight_decay,
            # One pass over each weight: a fifth of the time of a small model's update is saved.
            fused=True,
        )

    def run(self) -> SftResult:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        started, before = time.monotonic(), self.seconds
        last_save = started
        self.policy.train()
        batches = prefetch(self._batches(self.step))
        try:
            with held_signals() as stop:
                for batch in batches:
                    self._update(batch)
                    self.seconds = before + time.monotonic() - started
                    self._report()
                    if stop.asked or time.monotonic() - last_save > self.settings.save_every:
                        self._save()
                        last_save = time.monotonic()
                    if stop.asked:
                        break
        finally:
            batches.close()
            self.policy.eval()
        self._save()
        self._take_average()
        return SftResult(self.step, self.last_loss, self.validation_loss, self.seconds)

    def _batches(self, first: int) -> Iterator[TrainingBatch]:
        for step in range(first, self.total):
            batch = self.training.batch(self._indices(step))
            random = np.random.default_rng([self.settings.seed, 1, step])
            # Where things are is learnt before their colours stop to matter: both at once takes far longer.
            colour = self.settings.colour * min(1.0, 2.0 * step / self.total)
            images = {
                name: random_colour(random_shift(array, self.settings.shift, random), colour, random)
                for name, array in batch.images.items()
            }
            changed = Batch(images, batch.instructions, batch.state, batch.action, batch.mask)
            yield prepare(changed, self.policy.processor)

    def _indices(self, step: int) -> npt.NDArray[np.int64]:
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._ordered:
            self._ordered = epoch
            self._order = self.training.order(np.random.default_rng([self.settings.seed, 0, epoch]))
        return self._order[place * self.batch_size : (place + 1) * self.batch_size]

    def _update(self, batch: TrainingBatch) -> None:
        # Dropout draws from torch's generator: tied to the step, it needs no state of its own on the disk.
        torch.manual_seed((self.settings.seed * 1_000_003 + self.step) % 2**63)
        factor = self._rate_factor(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        with self._precision():
            loss = masked_mse(self.policy(batch.inputs).float(), batch.target, batch.mask)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(list(self.weights.values()), self.settings.gradient_clip)
        value = float(loss.detach())
        if not (math.isfinite(value) and math.isfinite(float(norm))):
            self._diverged(value, float(norm))
        self.optimizer.step()
        self.step += 1
        self.losses.append(value)
        if self.average:
            # The first steps weigh less, else the start would linger in the average.
            decay = min(self.settings.average, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                for name, parameter in self.weights.items():
                    self.average[name].lerp_(parameter, 1 - decay)

    def _diverged(self, loss: float, norm: float) -> None:
        # The weights are still those before this step: keep them.
        self._save()
        raise TrainingError(
            f"the loss is {loss:g} and the norm of its gradient {norm:g} at step {self.step} of {self.total}; lower "
            f"learning_rate (now {self.settings.learning_rate:g}) or look at the data; the last good state is in "
            f"{self.folder}"
        )

    def _precision(self) -> Any:
        device = self.policy.device.type
        half = self.settings.precision == "bfloat16" or (self.settings.precision == "auto" and device == "cuda")
        return torch.autocast(device, torch.bfloat16) if half else nullcontext()

    def _rate_factor(self, step: int) -> float:
        warmup = min(self.settings.warmup_steps, self.total // 10)
        if step < warmup:
            return (step + 1) / warmup
        share = (step - warmup) / max(self.total - warmup, 1)
        low = self.settings.final_learning_rate
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share))

    def _report(self) -> None:
        last = self.step == self.total
        validate = self.validation is not None and (last or self.step % self.settings.validate_every == 0)
        if validate:
            self.validation_loss = self._validate()
        if validate or last or self.step % self.settings.report_every == 0:
            self.last_loss = float(np.mean(self.losses))
            self.losses.clear()
            figures: dict[str, float] = {
                "step": self.step,
                "epoch": round(self.step / self.steps_per_epoch, 3),
                "loss": self.last_loss,
                "learning_rate": self.optimizer.param_groups[-1]["lr"],
                "seconds": round(self.seconds, 2),
                "decisions_per_second": round(self.step * self.batch_size / max(self.seconds, 1e-9), 1),
            }
            if validate:
                figures["validation_loss"] = float(self.validation_loss or 0.0)
            with (self.folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(figures) + "\n")
        self.progress(self.step, self.total, {"loss": self.losses[-1] if self.losses else self.last_loss})

    def _validate(self) -> float:
        assert self.validation is not None
        kept = {name: p.detach().clone() for name, p in self.weights.items()} if self.average else {}
        self._take_average()
        loss = evaluate_loss(self.policy, self.validation, self.settings.batch_size)
        with torch.no_grad():
            for name, value in kept.items():
                self.weights[name].copy_(value)
        self.policy.train()
        return loss

    def _take_average(self) -> None:
        with torch.no_grad():
            for name, value in self.average.items():
                self.weights[name].copy_(value)

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a run to be continued."""
        ignored = ("report_every", "save_every")
        plain = {key: value for key, value in to_dict(self.settings).items() if key not in ignored}
        return {
            "settings": plain,
            "model": to_dict(self.policy.settings),
            "data": self.training.fingerprint(),
            "start": self.start,
        }

    def _save(self) -> None:
        progress = {
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
            "last_loss": self.last_loss,
            "validation_loss": self.validation_loss,
        }
        write_state(self.folder, TrainingState(self._identity(), progress, self._tensors()))

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"weight/{name}": p.detach() for name, p in self.weights.items()}
        tensors |= {f"average/{name}": value for name, value in self.average.items()}
        for name, parameter in self.weights.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{key}/{name}"] = value
        return tensors

    def _resume(self) -> None:
        state = read_state(self.folder)
        if state is None:
            (self.folder / "metrics.jsonl").unlink(missing_ok=True)
            return
        # A state from before the start was part of it.
        found, wanted = {"start": ""} | state.identity, self._identity()
        if found != wanted:
            changed = [key for key, value in wanted.items() if found.get(key) != value]
            raise ResumeError(
                f"{self.folder}: holds the state of a run with other {' and '.join(changed)}; remove the folder or "
                "choose another output"
            )
        self.step, self.seconds = state.progress["step"], state.progress["seconds"]
        self.losses, self.last_loss = list(state.progress["losses"]), state.progress["last_loss"]
        self.validation_loss = state.progress.get("validation_loss")
        self._cut_metrics()
        with torch.no_grad():
            for name, parameter in self.weights.items():
                parameter.copy_(state.tensors[f"weight/{name}"])
                if self.average:
                    self.average[name].copy_(state.tensors[f"average/{name}"])
                for key in ("step", "exp_avg", "exp_avg_sq"):
                    stored = state.tensors.get(f"optimizer/{key}/{name}")
                    if stored is not None:
                        self.optimizer.state[parameter][key] = stored.to(parameter.device).clone()

    def _cut_metrics(self) -> None:
        """Forget what a killed process wrote after its last save: those steps come again."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= self.step]
        if kept != lines:
            partial = path.with_name(f".{path.name}.partial")
            partial.write_text("".join(kept))
            partial.replace(path)


def masked_mse(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over the steps that exist.

    Args:
        predicted: `[B, chunk, a]`.
        target: `[B, chunk, a]`.
        mask: `[B, chunk]`.
    """
    mask = mask.to(predicted.device)
    squared = (predicted - target.to(predicted.device)).square().mean(-1)
    return (squared * mask).sum() / mask.sum()


@torch.inference_mode()
def evaluate_loss(policy: VLAPolicy, decisions: Decisions, batch_size: int = 64) -> float:
    """Mean squared error on normalised actions over all decisions."""
    policy.eval()
    total, count = 0.0, 0
    for first in range(0, len(decisions), batch_size):
        batch = prepare(decisions.batch(np.arange(first, min(first + batch_size, len(decisions)))), policy.processor)
        steps = int(batch.mask.sum())
        total += float(masked_mse(policy(batch.inputs).float(), batch.target, batch.mask)) * steps
        count += steps
    return total / max(count, 1)
