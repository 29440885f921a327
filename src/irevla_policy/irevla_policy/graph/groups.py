"""Process groups: Ctrl-C stays with whoever started a process, and one signal reaches all that it has started."""

from __future__ import annotations

import os
import sys
from typing import Any


def own_group() -> dict[str, Any]:
    """Arguments of `subprocess.Popen` for a process that leads a process group of its own.

    It stays in the session of its parent, on purpose: where the kernel shares the processor among sessions first, what
    is scheduled as idle gives way at once only within one. Before Python 3.11 this takes a hook between fork and exec,
    which in a process with threads is safe for as little as this one system call.
    """
    if sys.version_info >= (3, 11):
        return {"process_group": 0}
    return {"preexec_fn": os.setpgrp}
