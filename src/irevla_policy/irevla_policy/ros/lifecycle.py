"""Running a node as a process, and starting lifecycle nodes by themselves."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

import rclpy
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.experimental import EventsExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from irevla_policy.errors import UserError

# How often the main thread looks for a signal, s.
_SIGNAL_PERIOD = 0.1

_EXECUTORS: dict[str, Callable[[], Executor]] = {"events": EventsExecutor, "single": SingleThreadedExecutor}


def autostart(node: LifecycleNode) -> None:
    """Configure and activate a lifecycle node, as a lifecycle manager would.

    Raises:
        UserError: A transition failed; the node has logged why.
    """
    for name, transition in (("configure", node.trigger_configure), ("activate", node.trigger_activate)):
        if transition() != TransitionCallbackReturn.SUCCESS:
            raise UserError(f"{node.get_name()}: could not {name}; see the error above")


def spin(make_node: Callable[[], Node], args: list[str] | None = None, executor: str = "single") -> None:
    """Run a node until SIGINT or SIGTERM: the whole `main` of a node.

    A node may have a method `close()`, which is called when no callback runs any more and publishers still work.

    Args:
        make_node: Makes the node; wrong parameters (UserError) end the process with exit code 2 and one line.
        args: Command line; default `sys.argv`.
        executor: `single` or `events` (rclpy's experimental one: no futures set from another thread).
    """
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = make_node()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        rclpy.try_shutdown()
        sys.exit(2)
    runner = _EXECUTORS[executor]()
    runner.add_node(node)
    try:
        # Not spin(): that of EventsExecutor never returns to Python when nothing happens, and it cannot be ended from
        # another thread; handlers of signals run only in the main thread and only between calls like this one.
        while not stop.is_set():
            runner.spin_once(_SIGNAL_PERIOD)
    finally:
        close = getattr(node, "close", None)
        if close is not None:
            close()
        node.destroy_node()
        rclpy.try_shutdown()
