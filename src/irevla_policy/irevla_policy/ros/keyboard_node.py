"""`irevla_keyboard`: the keyboard of a terminal as a teleoperation device.

    w s   away from the robot, towards it        space  open or close the gripper
    a d   to the robot's left, to its right      e      E-stop
    r f   up, down                               q      end

A key moves the hand as long as it is held, that is, as long as the terminal repeats it.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
import time
import tty
from typing import Any

import numpy as np
from std_srvs.srv import Trigger

from irevla_policy.errors import UserError
from irevla_policy.ros.lifecycle import spin
from irevla_policy.ros.teleoperation import TeleoperationNode

_MOVES = {
    "w": (1, 0, 0), "s": (-1, 0, 0), "a": (0, 1, 0), "d": (0, -1, 0), "r": (0, 0, 1), "f": (0, 0, -1),
}  # fmt: skip
_FIRST_REPEAT = 0.6
"""s until a terminal repeats a key that is held, at most."""

_REPEAT = 0.15
"""s between repetitions, at most."""


class KeyboardNode(TeleoperationNode):
    """Reads keys in a thread of its own."""

    def __init__(self) -> None:
        super().__init__("irevla_keyboard")
        if not sys.stdin.isatty():
            raise UserError("irevla_keyboard: standard input is no terminal; start it in one of its own")
        self._estop = self.create_client(Trigger, "/irevla/estop")
        self._until = 0.0
        self._held = ""
        self._terminal: Any = termios.tcgetattr(sys.stdin)
        tty.setcbreak(sys.stdin)
        self._ending = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.create_timer(0.02, self._let_go)
        print((__doc__ or "").split("\n\n", 1)[1].rsplit("\n\n", 1)[0], flush=True)

    def close(self) -> None:
        """Give the terminal back."""
        self._ending.set()
        self._reader.join()
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._terminal)

    def _read(self) -> None:
        while not self._ending.is_set():
            if select.select([sys.stdin], [], [], 0.05)[0]:
                for key in os.read(sys.stdin.fileno(), 64).decode(errors="ignore"):
                    self._on_key(key)

    def _on_key(self, key: str) -> None:
        now = time.monotonic()
        if key in _MOVES:
            # The same key again soon is one that is held; the first time it may take longer to come again.
            held = key == self._held and now < self._until
            self.wish.move = np.array(_MOVES[key], dtype=np.float64)
            self._held, self._until = key, now + (_REPEAT if held else _FIRST_REPEAT)
            self.wish.holds_on = True
        elif key == " ":
            self.wish.move = np.zeros(3)
            self.wish.turn_gripper()
            self._held, self._until = key, now + _FIRST_REPEAT
            self.wish.holds_on = True
            self.get_logger().info(f"gripper {'closes' if self.wish.gripper > 0.0 else 'opens'}")
        elif key == "e":
            self._stop()
        elif key == "q":
            os.kill(os.getpid(), 2)

    def _stop(self) -> None:
        if not self._estop.service_is_ready():
            self.get_logger().error("E-stop: nobody is found who takes it; is irevla_guard running?")
        asked = self._estop.call_async(Trigger.Request())
        asked.add_done_callback(lambda answer: self.get_logger().info(f"E-stop: {answer.result().message}"))

    def _let_go(self) -> None:
        if self.wish.holds_on and time.monotonic() > self._until:
            self.wish.holds_on = False


def main(args: list[str] | None = None) -> None:
    """Run the node until SIGINT or `q`."""
    spin(KeyboardNode, args)


if __name__ == "__main__":
    main()
