"""Say what is in a bag, a folder of bags or a checkpoint, and name its problems.

A bag is read as training would read it: the account says what was used, what was left out and why. Unfinished bags of
a killed recorder are listed; --recover makes bags of them, marked as aborted. --label says after the fact whether the
episode of a bag succeeded. The exit code is 1 when there is a problem.

With --json (to standard output, or to FILE), bags give one object:
  bags        list of objects: path, storage (mcap, sqlite3), seconds, megabytes, topics (name to type and messages),
              info (what EpisodeInfo says; null without one) and report
  report      path, episode_id, task, instruction, source, success, aligned_by, used, dropped (reason to count), notes,
              left_out, problem (empty when there is none)
  unfinished  list of folders
and a checkpoint gives one object:
  checkpoint  path, version (12 hex digits), model (settings), robot (facts), provenance

Examples:
  irevla inspect bags
  irevla inspect bags/drawer-open_000003 --json
  irevla inspect bags --recover
  irevla inspect bags/pick_20260101_120000_000 --label yes
  irevla inspect out/policy
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irevla_policy.errors import UserError
from irevla_policy.sim.tasks import METAWORLD, WORLDS, load_tasks

if TYPE_CHECKING:
    from irevla_policy.recording.storage import BagReader
    from irevla_trainer.data.reader import EpisodeReader
    from irevla_trainer.data.report import BagReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("path", type=Path, metavar="BAG_OR_CKPT", help="bag, folder of bags, or checkpoint")
    parser.add_argument("--world", default=METAWORLD, choices=WORLDS, help=f"world of the bags (default: {METAWORLD})")
    parser.add_argument("--robot", help="robot profile, name or file (default: the world's arm)")
    parser.add_argument("--recover", action="store_true", help="make bags of what killed recorders left")
    parser.add_argument("--label", choices=("yes", "no", "unknown"), help="whether the bag's episode succeeded")
    parser.add_argument("--labelled-by", default="operator", metavar="WHO", help="who says so (default: operator)")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write the answer as JSON, to standard output or FILE"
    )


def run(args: argparse.Namespace) -> int:
    """Inspect, and say whether all is well by the exit code."""
    if not args.path.exists():
        raise UserError(f"{args.path}: no such bag, folder or checkpoint")
    if (args.path / "config.json").is_file():
        if args.label or args.recover:
            raise UserError(f"{args.path}: --label and --recover are for bags, this is a checkpoint")
        document, lines, good = _checkpoint(args.path)
    else:
        if args.label:
            _label(args.path, args.label, args.labelled_by)
        recovered, path = _recover(args.path) if args.recover else ([], args.path)
        # What was cut off before its first message is no more.
        document, lines, good = {"bags": [], "unfinished": []}, [], True
        if path.exists():
            document, lines, good = _bags(path, args.robot or load_tasks(args.world).robot)
        lines = recovered + lines
    if args.json:
        text = json.dumps(document, indent=2)
        if args.json == "-":
            print(text)
            return 0 if good else 1
        Path(args.json).parent.mkdir(parents=True, exist_ok=True)
        Path(args.json).write_text(text + "\n")
    for line in lines:
        print(line)
    return 0 if good else 1


def _bags(path: Path, robot: str) -> tuple[dict[str, Any], list[str], bool]:
    from irevla_policy.recording.recovery import unfinished
    from irevla_policy.recording.storage import BagError, find_bags
    from irevla_policy.robot.profile import load_profile
    from irevla_trainer.data.reader import EpisodeReader
    from irevla_trainer.data.report import summary

    left = unfinished(path) if path.is_dir() else []
    found: list[Path] = []
    if _is_unfinished(path):
        left = [path]
    else:
        try:
            found = find_bags(path)
        except BagError:
            if not left:
                raise
    reader = EpisodeReader(load_profile(robot))
    bags, lines, reports = [], [], []
    for bag in found:
        described, report, text = _bag(bag, reader, detailed=len(found) == 1)
        bags.append(described)
        reports.append(report)
        lines += text
    lines += [f"{place}: unfinished: its recorder was killed; --recover saves what is there" for place in left]
    lines.append(summary(reports) + (f"; {len(left)} unfinished" if left else ""))
    good = not left and not any(report.problem for report in reports)
    return {"bags": bags, "unfinished": [str(place) for place in left]}, lines, good


def _bag(bag: Path, reader: EpisodeReader, *, detailed: bool) -> tuple[dict[str, Any], BagReport, list[str]]:
    from irevla_policy.recording.storage import open_reader

    episode, report = reader.read(bag)
    info = dataclasses.asdict(episode.info) if episode is not None else None
    described: dict[str, Any] = {"path": str(bag), "info": info, "report": report.to_json()}
    lines = [str(report)]
    try:
        with closing(open_reader(bag)) as opened:
            described |= _contents(opened, bag)
    except (UserError, OSError):
        # The report names the problem already.
        return described | {"storage": "", "seconds": 0.0, "megabytes": 0.0, "topics": {}}, report, lines
    if detailed:
        head = f"  {described['storage']}, {described['seconds']:.1f} s, {described['megabytes']:.1f} MB"
        lines += [head, *(f"  {name}: {t['messages']} x {t['type']}" for name, t in described["topics"].items())]
        if info is not None:
            lines += [f"  {name}: {value}" for name, value in info.items() if value not in ("", -1)]
        lines.append(f"  aligned by {report.aligned_by}" if report.aligned_by else "  not aligned")
    return described, report, lines


def _contents(bag: BagReader, path: Path) -> dict[str, Any]:
    from irevla_policy.recording.quota import folder_size

    size = folder_size(path)
    topics = {name: {"type": topic.type, "messages": topic.count} for name, topic in sorted(bag.topics.items())}
    seconds = (bag.end_time - bag.start_time) * 1e-9
    return {"storage": bag.storage, "seconds": round(seconds, 3), "megabytes": round(size / 1e6, 3), "topics": topics}


def _recover(path: Path) -> tuple[list[str], Path]:
    """Recover a bag, or all in a folder; returns what came of them, and where to look now."""
    from irevla_policy.lock import FolderLock
    from irevla_policy.recording.recovery import recover, unfinished

    lines, place = [], path
    alone = _is_unfinished(path) or _is_cut_off(path)
    for left in [path] if alone else unfinished(path):
        # Nobody may be recording into the folder: what looks unfinished could be under way.
        lock = FolderLock(left.parent.parent if left.parent.name == "unfinished" else left.parent)
        try:
            result = recover(left)
        finally:
            lock.release()
        if result.bag is None and not result.problem:
            lines.append(f"{left}: removed, it was cut off before its first message")
        elif result.bag is None:
            lines.append(f"{left}: nothing can be recovered: {result.problem}")
        else:
            lines.append(f"{result.bag}: recovered, {result.messages} messages, marked as aborted")
        if alone:
            place = result.bag or place
    return lines, place


def _label(path: Path, success: str, labelled_by: str) -> None:
    from irevla_policy.recording.episode import write_label
    from irevla_policy.recording.storage import METADATA_FILE

    if not (path / METADATA_FILE).is_file():
        raise UserError(f"{path}: --label needs the folder of one bag")
    write_label(path, success, labelled_by)


def _is_unfinished(path: Path) -> bool:
    return path.is_dir() and not (path / "metadata.yaml").is_file() and any(path.glob("*.mcap"))


def _is_cut_off(path: Path) -> bool:
    """Whether the only file of a finished bag has lost its end."""
    from irevla_policy.recording.mcap_reader import read_summary
    from irevla_policy.recording.mcap_records import McapError

    files = list(path.glob("*.mcap")) if (path / "metadata.yaml").is_file() else []
    if len(files) != 1:
        return False
    try:
        read_summary(files[0])
    except McapError:
        return True
    return False


def _checkpoint(path: Path) -> tuple[dict[str, Any], list[str], bool]:
    from irevla_policy.model.checkpoint import checkpoint_version, load_checkpoint, read_config, read_provenance
    from irevla_policy.settings import to_dict

    model, robot, _ = read_config(path)
    # Reading it whole is what finds missing and damaged files.
    policy = load_checkpoint(path)
    version, provenance = checkpoint_version(path), read_provenance(path)
    parameters = sum(parameter.numel() for parameter in policy.parameters())
    facts = to_dict(robot)
    lines = [
        f"{path}: version {version}, backbone {model.backbone}, {parameters / 1e6:.2f} M parameters",
        *(f"  {name}: {value}" for name, value in facts.items()),
        "  provenance:",
        *(f"    {name}: {value}" for name, value in provenance.items() if not isinstance(value, list | dict)),
    ]
    values = {"path": str(path), "version": version, "model": to_dict(model), "robot": facts, "provenance": provenance}
    return {"checkpoint": values}, lines, True
