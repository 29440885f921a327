"""Running a node as a process, and starting lifecycle nodes by themselves."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

import rclpy
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.experimental import EventsExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from irevla_policy.errors import UserError
from irevla_policy.ros.log_output import LogOutput
from irevla_policy.ros.starting import end_at_once_when_told

# How often the main thread looks for a signal, s.
_SIGNAL_PERIOD = 0.1

_log: LogOutput | None = None


def autostart(node: LifecycleNode) -> None:
    """Configure and activate a lifecycle node, as a lifecycle manager would.

    Raises:
        UserError: A transition failed; the node has logged why.
    """
    for name, transition in (("configure", node.trigger_configure), ("activate", node.trigger_activate)):
        if transition() != TransitionCallbackReturn.SUCCESS:
            raise UserError(f"{node.get_name()}: could not {name}; see the error above")


def spin(make_node: Callable[[], Node], args: list[str] | None = None) -> NoReturn:
    """Run a node until SIGINT or SIGTERM: the whole `main` of a node. Ends the process.

    A node may have a method `close()`, which is called when no callback runs any more and publishers still work. Where
    its attribute `runs_on_events` is true, rclpy's events executor runs it: less than half the CPU time per message, as
    nothing is gathered anew before every wait, but no serialized messages and no futures that another thread sets.

    Args:
        make_node: Makes the node; wrong parameters (UserError) end the process with exit code 2 and one line.
        args: Command line; default `sys.argv`.
    """
    global _log
    end_at_once_when_told()
    _log = LogOutput()
    code = _run(make_node, args)
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()
    end_process(code)


def end_process(code: int) -> NoReturn:
    """End a process of `spin` here and now, from any thread, with its last words said.

    Args:
        code: Exit code.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if _log is not None:
        _log.close()
    # Not sys.exit(): tidying up an interpreter that has imported torch takes seconds.
    os._exit(code)


def settle_memory() -> None:
    """Take all that is there now out of the rounds of the garbage collector, for good.

    With torch imported a round over everything stops the process for a fifth of a second, several ticks of a robot;
    over what has come since it takes milliseconds. To be called when what stays has been made.
    """
    gc.collect()
    gc.freeze()


def _run(make_node: Callable[[], Node], args: list[str] | None) -> int:
    """Run a node; returns the exit code: 0 when told to end, 1 when it failed, 2 when it could not start."""
    node: Node | None = None
    try:
        _init(args)
        node = make_node()
        settle_memory()
        on_events = getattr(node, "runs_on_events", False)
        _spin_until_told(node, EventsExecutor() if on_events else SingleThreadedExecutor())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2 if node is None else 1
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        _end(node)
    return 0


def _init(args: list[str] | None) -> None:
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:
        raise UserError(f"ROS arguments or parameter file: {error}") from None


def _spin_until_told(node: Node, runner: Executor) -> None:
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    runner.add_node(node)
    # Not spin(): that of EventsExecutor never returns to Python when nothing happens, and it cannot be ended from
    # another thread; handlers of signals run only in the main thread and only between calls like this one.
    while not stop.is_set():
        runner.spin_once(_SIGNAL_PERIOD)


def _end(node: Node | None) -> None:
    try:
        if node is not None:
            if hasattr(node, "close"):
                node.close()
            node.destroy_node()
    finally:
        rclpy.try_shutdown()
