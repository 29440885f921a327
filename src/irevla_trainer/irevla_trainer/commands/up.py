"""Bring up a node graph on this machine, with the arguments of the launch file of the same name.

Ctrl-C ends every node within 3 s. When a node ends by itself, the others are ended too and the exit code is 1.

Examples:
  irevla up sim
  irevla up sim task:=door-open seed:=3 mode:=lock_step
  irevla up sim checkpoint:=out/demo/checkpoint record:=bags image_format:=jpeg
  irevla up sim --show-args
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from irevla_policy.graph.description import GraphDescription


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    from irevla_policy.graph.registry import GRAPHS

    parser.add_argument("graph", help=f"which graph to bring up: {', '.join(GRAPHS)}")
    parser.add_argument("arguments", nargs="*", default=[], metavar="name:=value", help="arguments of the graph")
    parser.add_argument("-s", "--show-args", action="store_true", help="show the arguments of the graph and exit")
    parser.add_argument("--log-dir", metavar="DIR", help="also write each node's output to DIR/NODE.log")
    parser.epilog = "\n\n".join(_arguments_of(description) for description in GRAPHS.values())


def run(args: argparse.Namespace) -> int:
    """Run the graph until Ctrl-C, until it has done its work, or until a node ends."""
    from irevla_policy.graph.description import parse_arguments
    from irevla_policy.graph.registry import find_graph
    from irevla_policy.graph.supervisor import Supervisor

    description = find_graph(args.graph)
    if args.show_args:
        print(_arguments_of(description))
        return 0
    graph = description.resolve(parse_arguments(args.arguments))
    print(f"irevla up {graph.name}: {', '.join(node.name for node in graph.nodes)} (Ctrl-C ends them)", flush=True)
    with Supervisor(graph, log_dir=args.log_dir, output=sys.stdout) as running:
        with suppress(KeyboardInterrupt):
            running.wait()
        codes = running.stop()
    failed = {name: code for name, code in codes.items() if code != 0}
    for name, code in failed.items():
        print(f"irevla up: {name} ended with exit code {code}", file=sys.stderr)
    return 1 if failed else 0


def _arguments_of(description: GraphDescription) -> str:
    lines = [f"arguments of {description.name} ({description.summary}):"]
    for argument in description.arguments:
        choices = f" [{', '.join(choice or repr('') for choice in argument.choices)}]" if argument.choices else ""
        about = f"{argument.description}{choices} (default: {argument.default or repr('')})"
        lines += [f"  {argument.name}:=", textwrap.indent(textwrap.fill(about, 100), " " * 6)]
    return "\n".join(lines)
