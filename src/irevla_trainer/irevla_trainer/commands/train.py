"""Train a policy with iRe-VLA: supervised fine-tuning and online reinforcement learning, task by task.

The file given with --config names the tasks, the bags with expert demonstrations, and the settings of every stage:
config/train.yaml is one, docs/reference/train-settings.md says what every key means. Everything goes into the folder
RUN:
  checkpoint/      the checkpoint that did best on validation seeds
  result.json      its success on test seeds, every stage's account; written last, so a run with it is finished
  report.html      curves, bars and videos
  tensorboard/     scalars: tensorboard --logdir RUN/tensorboard
  steps/           one folder for every stage and evaluation, each with its checkpoint and metrics.jsonl

Ctrl-C stops it at any time; after that, or after a crash, --resume goes on and ends with the same result as without
the interruption.

Examples:
  irevla train --config config/train.yaml --out runs/first
  irevla train --config config/train.yaml --out runs/first --resume
"""

from __future__ import annotations

import argparse
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irevla_policy.errors import RunError, UserError
from irevla_policy.settings import load

if TYPE_CHECKING:
    from irevla_trainer.loop.run import RunFolder
    from irevla_trainer.loop.settings import TrainFile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML settings of the run")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="continue an unfinished run")


def run(args: argparse.Namespace) -> int:
    """Train, and print the result."""
    os.environ.setdefault("MUJOCO_GL", "egl")
    from irevla_policy.sim.gl import require_gl

    require_gl()
    from irevla_trainer.loop.check import check
    from irevla_trainer.loop.report import write_report
    from irevla_trainer.loop.run import RunFolder
    from irevla_trainer.loop.settings import TrainFile

    settings = load(TrainFile, args.config)
    check(settings, args.config)
    try:
        with RunFolder(args.out, settings, args.resume) as folder:
            result = folder.result
            if result is not None:
                # A process that was killed in its last moments leaves the report before the last.
                write_report(args.out)
                print(f"{args.out}: this run has finished already")
            else:
                result = _train(folder, settings)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RunError(_what_failed(error, args.out)) from error
    _print(args.out, result)
    return 0


def _train(folder: RunFolder, settings: TrainFile) -> dict[str, Any]:
    from irevla_trainer.loop.algorithm import train
    from irevla_trainer.loop.display import Display

    try:
        with Display(folder.folder) as display:
            return train(folder, settings, display)
    except UserError:
        # Bad input that only showed itself on the way: it can be mended and tried again under the same name.
        folder.discard()
        raise


def _print(out: Path, result: dict[str, Any]) -> None:
    print(f"selected {result['selected']['step']}: {out / 'checkpoint'}, version {result['selected']['version']}")
    for category, values in result.get("test", {}).items():
        print(
            f"{category:<8} {values['success']:.2f} [{values['low']:.2f}, {values['high']:.2f}] "
            f"({values['successes']}/{values['episodes']} on test seeds)"
        )


def _what_failed(error: OSError, out: Path) -> str:
    where = error.filename or out
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}: the disk is full; nothing finished is lost, --resume goes on once there is room"
    return f"{where}: {error.strerror or error}; --resume goes on once that is mended"
