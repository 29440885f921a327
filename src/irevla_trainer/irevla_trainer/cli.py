"""The command line `irevla`.

Exit codes: 0 success, 1 a run that failed, 2 wrong usage or bad input (one line on standard error says what and
where), 130 and 143 ended by Ctrl-C and SIGTERM.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from irevla_policy.errors import RunError, UserError
from irevla_trainer import __version__
from irevla_trainer.commands import COMMANDS

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Words after `irevla`; None takes those of this process.

    Returns:
        The exit code.
    """
    # Threads of the arithmetic that wait by spinning take the cores from worker processes and other programs: with one
    # busy neighbour on two cores an update takes eight times as long. Read when torch loads, so it is set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0 if words else BAD_INPUT
    if words[0] == "--version":
        print(f"irevla {__version__}")
        return 0
    name = words[0]
    if name not in [command.name for command in COMMANDS]:
        return _complain("irevla", f"unknown command {name!r}; the commands are {', '.join(c.name for c in COMMANDS)}")
    return _run(name, words[1:])


def _run(name: str, words: list[str]) -> int:
    module = importlib.import_module(f"irevla_trainer.commands.{name}")
    parser = _Parser(
        prog=f"irevla {name}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    # Started in the background of a script, a process inherits that SIGINT is ignored; asked to stop, it must listen.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Ended by SIGTERM or with its terminal, a command still runs its `finally` blocks, which end what it started.
    signal.signal(signal.SIGTERM, _exit_on_signal)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGHUP, _exit_on_signal)
    try:
        return int(module.run(parser.parse_intermixed_args(words)))
    except UserError as error:
        return _complain(f"irevla {name}", error, BAD_INPUT)
    except RunError as error:
        return _complain(f"irevla {name}", error, FAILED)
    except KeyboardInterrupt:
        return _complain(f"irevla {name}", "interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output (head, less) has seen enough; nothing is left to be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        return _complain(f"irevla {name}", error, FAILED)


class _Parser(argparse.ArgumentParser):
    """Says in one line what was wrong with the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(_complain(self.prog, f"{message} (see {self.prog} --help)"))


def _complain(who: str, what: object, code: int = BAD_INPUT) -> int:
    print(f"{who}: {' '.join(str(what).split())}", file=sys.stderr)
    return code


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _overview() -> str:
    width = max(len(command.name) for command in COMMANDS)
    lines = [f"  {command.name:<{width}}  {command.summary}" for command in COMMANDS]
    return "\n".join(
        [
            "usage: irevla COMMAND [ARGUMENTS]",
            "",
            "A vision-language-action policy that acts, records and learns on ROS 2.",
            "",
            "commands:",
            *lines,
            "",
            "irevla COMMAND --help shows a command's arguments and examples.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
