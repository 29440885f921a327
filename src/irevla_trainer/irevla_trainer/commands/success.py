"""Train a success classifier from labelled episodes, for a robot on which nothing tells of success.

Takes all episodes that are labelled as success or failure by a person or a simulator, looks at them through the frozen
backbone of a checkpoint, and learns to tell from a frame whether the instruction is fulfilled. A share of the episodes
is held out; on these it says how many successes it sees and how many failures it takes for one. Beside an arm
(`irevla up arm success:=OUT`) it labels the running episode, which ends it.

Episodes that a classifier has labelled are not learnt from: correct one (/irevla/label_episode), and it is.

With --json, FILE is one object:
  classifier  path, verdict (threshold, frames)
  episodes    successes, failures, those held out among them
  held_out    seen, early, false_alarms: success (the rate), low, high (95 % Wilson interval), successes, episodes

Examples:
  irevla success --bags bags --checkpoint out/policy --out out/success --robot my_arm.yaml
  irevla success --bags bags --checkpoint out/policy --out out/success --robot my_arm.yaml --task pick-carrot
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import Counter
from pathlib import Path

from irevla_policy.recording.episode import CLASSIFIER
from irevla_policy.settings import SettingsError, from_dict, to_dict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--bags", type=Path, nargs="+", required=True, metavar="DIR", help="bags, or folders of bags")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="CKPT", help="policy whose backbone looks")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="classifier to write")
    parser.add_argument("--robot", required=True, help="robot profile, name or file")
    parser.add_argument("--task", action="append", default=[], metavar="TASK", help="only episodes of it; repeatable")
    parser.add_argument("--threshold", type=float, help="probability from which a frame shows success (default: 0.9)")
    parser.add_argument("--frames", type=int, help="frames in a row that have to (default: 2)")
    parser.add_argument("--shows", type=int, help="last frames of a success that show it (default: 2)")
    parser.add_argument("--unclear", type=int, help="frames before those that say nothing (default: 8)")
    parser.add_argument("--steps", type=int, help="updates (default: 600)")
    parser.add_argument("--seed", type=int, help="of weights, order and what is held out (default: 0)")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")


def run(args: argparse.Namespace) -> int:
    """Train and write the classifier."""
    from irevla_policy.model.checkpoint import check_fits, checkpoint_version, load_checkpoint
    from irevla_policy.model.device import require_device
    from irevla_policy.model.success import Verdict
    from irevla_policy.robot.profile import load_profile
    from irevla_trainer.data.dataset import Wanted, load_dataset
    from irevla_trainer.learn.success import SuccessSettings, train_success

    given = {name: value for name, value in vars(args).items() if value is not None}
    settings = from_dict(SuccessSettings, _chosen(given, SuccessSettings), "options")
    verdict = from_dict(Verdict, _chosen(given, Verdict), "options")
    if args.out.exists():
        raise SettingsError(f"--out: {args.out} exists; choose another folder")
    profile = load_profile(args.robot)
    policy = load_checkpoint(args.checkpoint, require_device(args.device))
    check_fits(args.checkpoint, policy.robot, profile)
    dataset = load_dataset(args.bags, profile, Wanted(success_only=False, tasks=tuple(args.task)))
    try:
        episodes = [
            episode
            for episode in dataset.episodes
            if episode.info.success != "unknown" and episode.info.labelled_by != CLASSIFIER
        ]
        classifier, trial = train_success(policy, episodes, settings, verdict)
    finally:
        dataset.close()
    held_out = {name: rate.to_json() for name, rate in vars(trial).items()}
    counted = dict(Counter({"yes": "successes", "no": "failures"}[e.info.success] for e in episodes))
    account = {
        "episodes": counted,
        "tasks": dict(sorted(Counter(episode.info.task for episode in episodes).items())),
        "policy": checkpoint_version(args.checkpoint),
        "settings": to_dict(settings),
        "held_out": held_out,
    }
    classifier.save(args.out, account)
    print(f"{args.out}: made of {counted['successes']} successes, {counted['failures']} failures")
    print(f"held out: {trial.seen} of the successes seen, {trial.early} too early")
    print(f"          {trial.false_alarms} of the failures taken for successes")
    if args.json:
        document = {
            "classifier": {"path": str(args.out), "verdict": to_dict(verdict)},
            "episodes": counted,
            "held_out": held_out,
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0


def _chosen(given: dict[str, object], settings: type) -> dict[str, object]:
    """Those of the options that are fields of a settings class."""
    names = {field.name for field in dataclasses.fields(settings)}
    return {name: value for name, value in given.items() if name in names}
