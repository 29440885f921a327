"""A process that stands in for a node in the tests of the supervisor; BEHAVIOUR says how it takes signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType


def close(number: int, frame: FrameType | None) -> None:
    Path(os.environ["CLOSED"]).touch()
    print("closed", flush=True)
    sys.exit(0)


def main() -> None:
    behaviour = os.environ["BEHAVIOUR"]
    if behaviour == "fails":
        print("cannot start", file=sys.stderr)
        sys.exit(3)
    if behaviour == "ends":
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN if behaviour in ("deaf", "stubborn") else close)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if behaviour == "stubborn" else close)
    if behaviour == "parent":
        child = (
            "import signal, time; signal.signal(2, signal.SIG_IGN); signal.signal(15, signal.SIG_IGN); time.sleep(60)"
        )
        print(f"pid {subprocess.Popen([sys.executable, '-S', '-c', child]).pid}", flush=True)
    print(f"pid {os.getpid()}", flush=True)
    print(f"arguments {sys.argv[1:]}", flush=True)
    print("ready", flush=True)
    if behaviour == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(60)


if __name__ == "__main__":
    main()
