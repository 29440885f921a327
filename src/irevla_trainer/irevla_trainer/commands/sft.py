"""Train a policy from bags by supervised fine-tuning (stage 0 of iRe-VLA).

Takes the successful episodes of all bags in the folders, holds a share of them out to watch the loss, and writes a
checkpoint. While it runs, OUT.training holds the training state: after Ctrl-C or a crash the same command goes on
where it was. OUT.training/metrics.jsonl keeps the course of the loss.

Settings come from --config (YAML with the sections `model` and `training`; default: config/sft.yaml), single ones
from the options below.

With --json, FILE is one object:
  checkpoint  path, version (12 hex digits)
  result      steps, loss, validation_loss (null without held-out episodes), seconds
  data        episodes, decisions, validation_episodes, tasks (name to number of episodes), bags (account of each)

Examples:
  irevla sft --bags out/bags --out out/policy
  irevla sft --bags out/bags more/bags --out out/policy --epochs 60 --seed 1
  irevla sft --bags new/bags --init out/policy --out out/policy2
  irevla sft --bags out/bags --out out/large --backbone HuggingFaceTB/SmolVLM-256M-Instruct --device cuda
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irevla_policy.lock import FolderLock
from irevla_policy.model.config import ModelSettings
from irevla_policy.paths import config_folder
from irevla_policy.settings import SettingsError, from_dict, load, to_dict
from irevla_policy.sim.tasks import METAWORLD, WORLDS, load_tasks
from irevla_trainer.learn.settings import SftFile, SftSettings

if TYPE_CHECKING:
    from irevla_policy.model.policy import VLAPolicy
    from irevla_policy.robot.profile import RobotProfile
    from irevla_trainer.data.dataset import Dataset
    from irevla_trainer.learn.decisions import Decisions
    from irevla_trainer.learn.sft import SftResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--bags", type=Path, nargs="+", required=True, metavar="DIR", help="bags, or folders of bags")
    parser.add_argument("--out", type=Path, required=True, metavar="CKPT", help="checkpoint to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a finished checkpoint at --out")
    parser.add_argument("--init", type=Path, metavar="CKPT", help="checkpoint to start from; keeps its normalisation")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML settings (default: config/sft.yaml)")
    parser.add_argument("--world", default=METAWORLD, choices=WORLDS, help=f"world of the bags (default: {METAWORLD})")
    parser.add_argument("--robot", help="robot profile, name or file (default: the world's arm)")
    parser.add_argument("--task", action="append", default=[], metavar="TASK", help="only episodes of it; repeatable")
    parser.add_argument("--all-episodes", action="store_true", help="also episodes that are not labelled as successes")
    parser.add_argument("--backbone", help="vision-language model: tiny, small, a folder or a hub id")
    parser.add_argument("--epochs", type=float, help="passes over the data")
    parser.add_argument("--steps", type=int, help="updates, instead of epochs")
    parser.add_argument("--learning-rate", type=float, help="peak learning rate")
    parser.add_argument("--seed", type=int, help="of weights, order and augmentation")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument("--threads", type=int, help="threads of the arithmetic (default: torch's choice)")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep decoded episodes there for the next time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")


def run(args: argparse.Namespace) -> int:
    """Train and write the checkpoint."""
    model_settings, training_settings = _settings(args)
    import torch

    from irevla_policy.model.checkpoint import checkpoint_version, save_checkpoint
    from irevla_policy.model.device import require_device
    from irevla_policy.robot.profile import load_profile
    from irevla_trainer.data.dataset import Wanted, load_dataset
    from irevla_trainer.learn.decisions import Decisions, split
    from irevla_trainer.learn.sft import train
    from irevla_trainer.learn.training_state import remove_state

    device = require_device(args.device)
    if args.threads is not None:
        if args.threads < 1:
            raise SettingsError(f"--threads: expected at least 1, found {args.threads}")
        torch.set_num_threads(args.threads)
    folder = args.out.parent / f"{args.out.name}.training"
    _check_target(args.out, folder, args.overwrite)
    profile = load_profile(args.robot or load_tasks(args.world).robot)
    wanted = Wanted(success_only=not args.all_episodes, tasks=tuple(args.task))
    with contextlib.ExitStack() as held:
        dataset = load_dataset(args.bags, profile, wanted, cache=args.cache, progress=_reading)
        held.callback(dataset.close)
        indices = split(dataset.episodes, training_settings.validation_share, training_settings.seed)
        chosen = [[dataset.episodes[index] for index in part] for part in indices]
        cameras = [camera.name for camera in profile.cameras]
        learnt = Decisions(chosen[0], cameras)
        policy = _policy(args, model_settings, training_settings.seed, profile, learnt)
        training, validation = (Decisions(part, cameras, policy.settings.chunk) for part in chosen)
        print(f"{len(training)} decisions of {len(chosen[0])} episodes, {len(chosen[1])} episodes held out", flush=True)
        policy.to(device)
        # Of two that train the same, the first would remove what the second goes on from.
        held.callback(FolderLock(folder).release)
        with _Bar() as bar:
            start = checkpoint_version(args.init) if args.init else ""
            result = train(policy, training, validation, training_settings, folder, bar, start)
        data = _account(dataset, len(chosen[1]))
        provenance = _provenance(args, policy, training_settings, result, data)
        version = save_checkpoint(args.out, policy, provenance)
        remove_state(folder)
    held_out = f", held out {result.validation_loss:.4f}" if result.validation_loss is not None else ""
    print(f"{args.out}: version {version}")
    print(f"loss {result.loss:.4f}{held_out}; {result.steps} updates in {result.seconds:.0f} s")
    if args.json:
        document = {
            "checkpoint": {"path": str(args.out), "version": version},
            "result": dataclasses.asdict(result),
            "data": data | {"bags": [report.to_json() for report in dataset.reports]},
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0


def _settings(args: argparse.Namespace) -> tuple[ModelSettings, SftSettings]:
    """Settings of the file, single ones replaced by options."""
    settings = load(SftFile, args.config or config_folder() / "sft.yaml")
    options = {name: getattr(args, name) for name in ("epochs", "steps", "learning_rate", "seed")}
    given = {name: value for name, value in options.items() if value is not None}
    if "epochs" in given:
        given.setdefault("steps", 0)  # the option counts more than the file's steps
    training = from_dict(SftSettings, to_dict(settings.training) | given, where="options")
    model = settings.model
    if args.backbone:
        if args.init:
            raise SettingsError("--backbone: --init already decides the backbone; leave one of them out")
        model = dataclasses.replace(model, backbone=args.backbone)
    return model, training


def _check_target(out: Path, folder: Path, overwrite: bool) -> None:
    """Refuse before hours of training what could not be written after them."""
    for path in (out, folder):
        if path.exists() and not path.is_dir():
            raise SettingsError(f"--out: expected a folder, {path} is a file")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / "config.json").is_file():
        raise SettingsError(f"--out: {out} is a folder with something else than a checkpoint in it")
    if not overwrite and not any(folder.glob("state.*")):
        raise SettingsError(
            f"--out: {out} is a finished checkpoint; choose another --out (with --init {out} to train it on), "
            "or --overwrite it"
        )


def _policy(
    args: argparse.Namespace, settings: ModelSettings, seed: int, profile: RobotProfile, training: Decisions
) -> VLAPolicy:
    """The policy to start from: a stored one, or a new one normalised by the data."""
    from irevla_policy.model.checkpoint import check_fits, load_checkpoint
    from irevla_policy.model.config import RobotFacts
    from irevla_policy.model.policy import VLAPolicy

    if args.init:
        policy = load_checkpoint(args.init)
        check_fits(args.init, policy.robot, profile)
        return policy
    return VLAPolicy.create(settings, RobotFacts.of(profile), training.fit_normaliser(), seed)


def _account(dataset: Dataset, held_out: int) -> dict[str, Any]:
    tasks = Counter(episode.info.task or episode.instructions[0] for episode in dataset.episodes)
    return {
        "episodes": len(dataset.episodes),
        "decisions": dataset.decisions,
        "validation_episodes": held_out,
        "tasks": dict(sorted(tasks.items())),
    }


def _provenance(
    args: argparse.Namespace, policy: VLAPolicy, settings: SftSettings, result: SftResult, data: dict[str, Any]
) -> dict[str, Any]:
    from irevla_policy.model.checkpoint import checkpoint_version
    from irevla_trainer.provenance import origin

    return {
        "made_by": "irevla sft",
        "origin": origin(),
        "init": checkpoint_version(args.init) if args.init else None,
        "data": data,
        "seed": settings.seed,
        "training": to_dict(settings),
        "result": dataclasses.asdict(result),
    }


def _reading(done: int, total: int, report: Any) -> None:
    """Say which bags are not used, and how far the reading is on a terminal."""
    if report.problem:
        print(f"\r\033[K{report}" if sys.stderr.isatty() else str(report), file=sys.stderr)
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r\033[Kreading bags {done}/{total}", end=end, file=sys.stderr, flush=True)


class _Bar:
    """A progress bar on a terminal, a line now and then elsewhere."""

    def __enter__(self) -> _Bar:
        self._bar: Any = None
        self._lines = 0
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, step: int, total: int, figures: dict[str, float]) -> None:
        if sys.stderr.isatty():
            if self._bar is None:
                from tqdm import tqdm

                self._bar = tqdm(total=total, initial=step - 1, unit="update", desc="training", dynamic_ncols=True)
            self._bar.update(1)
            self._bar.set_postfix_str(f"loss {figures['loss']:.4f}", refresh=False)
        elif step * 10 // total > self._lines:
            self._lines = step * 10 // total
            print(f"training: {step}/{total} updates, loss {figures['loss']:.4f}", file=sys.stderr, flush=True)
