"""Ends the processes of a supervisor that died without doing so, e.g. by SIGKILL.

Runs as a process of its own in a group of its own. On its standard input the supervisor names the process groups that
it started (`+ID`) and that are gone (`-ID`). When the input ends while some are left, they are ended as Ctrl-C would
have ended them: nodes close their bags, and what hangs is killed.
"""

from __future__ import annotations

import signal
import sys

from irevla_policy.graph.ending import end


def _runs(process: int) -> bool:
    """Whether a process that is not our child runs (a zombie that nobody waits for does not)."""
    try:
        with open(f"/proc/{process}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def main() -> None:
    """Follow the supervisor until it is gone."""
    # Whoever ends the supervisor by its group or terminal must not end this process with it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    end(groups, _runs)


if __name__ == "__main__":
    main()
