"""The process that does a job's training: `python -m irevla_trainer.jobs.worker JOB`.

SIGINT stops it within a moment and leaves everything so that the same call goes on; so does the end of whoever started
it, which it sees by its standard input. Whatever else ends it, the job can be resumed.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from irevla_policy.errors import RunError, UserError
from irevla_trainer.jobs.job import JobFolder
from irevla_trainer.priority import step_back

STOPPED = 130
"""Exit code of a process that was told to stop."""

NO_ROOM = 28
"""Exit code of a process that could not even note what came out."""

_PATIENCE = 10.0
"""s that the process has to stop by itself when it is alone."""


def main(arguments: list[str]) -> int:
    """Do the job in the folder that is named; returns the exit code."""
    job = JobFolder(Path(arguments[0]))
    # A shell that starts processes in the background lets them ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    os.environ.setdefault("MUJOCO_GL", "egl")
    step_back(job.order.settings.priority)
    try:
        outcome = _work(job)
    except KeyboardInterrupt:
        print("stopped; the job can be resumed", file=sys.stderr)
        return STOPPED
    try:
        job.set_outcome(outcome)
    except OSError as error:
        print(f"{error.filename or job.folder}: {error.strerror or error}", file=sys.stderr)
        return NO_ROOM
    return 0 if "failed" not in outcome else 1


def _work(job: JobFolder) -> dict[str, Any]:
    """What came out; `failed` says why nothing did."""
    try:
        from irevla_trainer.jobs.work import work

        return work(job)
    except (UserError, RunError) as error:
        return {"failed": str(error)}
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return {"failed": f"{error.filename or job.folder}: the disk is full; nothing finished is lost"}
        traceback.print_exc()
        return {"failed": f"{error.filename or job.folder}: {error.strerror or error}"}
    except Exception as error:
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error} (see {job.log_path})"}


def _end_with_parent() -> None:
    """Wait for the end of standard input, then stop."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait(_PATIENCE)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
