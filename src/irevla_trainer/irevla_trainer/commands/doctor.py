"""Say what is installed and what is missing, and what is used in place of the missing.

Exit code 0 when the default can run (simulation, small model, CPU), 1 when something that it needs is missing.

With --json, standard output is one object:
  ready   true when the default can run
  checks  list of objects:
            name    what was looked at
            status  "ok", "absent" (something else is used, or it is not needed) or "missing" (the default needs it)
            found   version, place or measurement; empty when nothing was found
            note    what is used instead, or what to do; may be empty

Examples:
  irevla doctor
  irevla doctor --json
"""

from __future__ import annotations

import argparse
import json
import sys

_MARKS = {"ok": "ok     ", "absent": "absent ", "missing": "MISSING"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Print every finding as soon as it is there."""
    from irevla_trainer.diagnosis import diagnose

    checks = []
    for check in diagnose():
        checks.append(check)
        if not args.json:
            found = f"{check.name}: {check.found}" if check.found else check.name
            mark = f"\033[31m{_MARKS[check.status]}\033[0m" if _alarming(check.status) else _MARKS[check.status]
            print(f"{mark}  {found}" + (f"\n         {check.note}" if check.note else ""), flush=True)
    missing = [check.name for check in checks if check.status == "missing"]
    if args.json:
        print(json.dumps({"ready": not missing, "checks": [vars(check) for check in checks]}, indent=2))
    elif missing:
        print(f"\nThe default cannot run; missing: {', '.join(missing)}.")
    else:
        print("\nThe default can run.")
    return 1 if missing else 0


def _alarming(status: str) -> bool:
    return status == "missing" and sys.stdout.isatty()
