"""A node that is told to end while it still starts ends at once, without a traceback.

Imports and models take seconds. Nothing has begun by then that would have to be finished.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path


def end_at_once_when_told() -> None:
    """From now on SIGINT and SIGTERM end the process with exit code 0."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # No exception instead: extension modules that are being imported turn it into errors of their own.
        signal.signal(number, lambda _number, _frame: os._exit(0))


def runs_a_node() -> bool:
    """Whether this process was started as a node: `python -m irevla_policy.ros.X_node`, or its executable."""
    started_as_module = any(re.match(r"irevla_\w+\.ros\.", word) for word in sys.orig_argv[1:])
    return started_as_module or Path(sys.argv[0]).name.startswith("irevla_")
