"""The command line: what it lists, how it complains, and its exit codes."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable

import pytest

from irevla_policy.errors import RunError, UserError
from irevla_trainer import cli
from irevla_trainer.commands import COMMANDS


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[argparse.Namespace], int]], None]:
    """Puts a command of our own in the place of `doctor`."""

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--episodes", type=int, default=1)
        parser.add_argument("words", nargs="*", default=[])

    def replace(run: Callable[[argparse.Namespace], int]) -> None:
        module = types.ModuleType("irevla_trainer.commands.doctor", "Do a thing.\n\nExamples:\n  irevla doctor")
        module.__dict__.update(add_arguments=add_arguments, run=run)
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return replace


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for entry in COMMANDS:
        assert f"  {entry.name} " in shown
        assert entry.summary in shown


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from irevla_trainer import cli; cli.main(['--help']); "
        "assert not {'torch', 'numpy', 'rclpy', 'transformers', 'mujoco'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("name", [entry.name for entry in COMMANDS])
def test_every_command_has_help_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"usage: irevla {name}" in shown
    assert f"  irevla {name}" in shown.partition("Examples:")[2]


@pytest.mark.parametrize("name", [entry.name for entry in COMMANDS])
def test_the_help_of_a_command_imports_nothing_heavy(name: str) -> None:
    script = (
        f"import argparse, sys; from irevla_trainer.commands import {name} as command; "
        "command.add_arguments(argparse.ArgumentParser()); "
        "assert not {'torch', 'rclpy', 'transformers', 'mujoco'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_nothing_and_unknown_commands_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert cli.main(["evaluate"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("irevla: unknown command 'evaluate'; the commands are doctor, up")
    assert errors.count("\n") == 1


def test_wrong_arguments_are_one_line(command: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    command(lambda args: 0)
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor", "--episodes", "many"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "irevla doctor: argument --episodes: invalid int value: 'many' (see irevla doctor --help)\n"
    )


def test_words_may_come_before_and_after_options(command: Callable[..., None]) -> None:
    command(lambda args: 0 if args.words == ["a", "b"] and args.episodes == 3 else 1)
    assert cli.main(["doctor", "a", "--episodes", "3", "b"]) == 0


def raises(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("bag x:\n no topic"), 2, "irevla doctor: bag x: no topic\n"),
        (RunError("node a ended"), 1, "irevla doctor: node a ended\n"),
        (PermissionError(13, "Permission denied", "bags"), 1, "irevla doctor: [Errno 13] Permission denied: 'bags'\n"),
        (KeyboardInterrupt(), 130, "irevla doctor: interrupted\n"),
    ],
)
def test_errors_become_one_line_and_an_exit_code(
    command: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    line: str,
) -> None:
    command(raises(error))
    assert cli.main(["doctor"]) == code
    assert capsys.readouterr().err == line


def test_a_bug_keeps_its_traceback(command: Callable[..., None]) -> None:
    command(raises(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(["doctor"])


def test_sigterm_runs_what_must_be_run(command: Callable[..., None]) -> None:
    script = """
import sys, time, types
module = types.ModuleType("irevla_trainer.commands.doctor", "Wait.")
def run(args):
    try:
        print("waiting", flush=True)
        time.sleep(30)
    finally:
        print("tidied", flush=True)
module.__dict__.update(add_arguments=lambda parser: None, run=run)
sys.modules[module.__name__] = module
from irevla_trainer import cli
sys.exit(cli.main(["doctor"]))
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "tidied\n"
    assert process.returncode == 128 + signal.SIGTERM


def test_a_hang_up_ends_a_command_unless_it_was_started_with_nohup(command: Callable[..., None]) -> None:
    def hang_up(args: argparse.Namespace) -> int:
        signal.raise_signal(signal.SIGHUP)
        return 0

    command(hang_up)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert cli.main(["doctor"]) == 0
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with pytest.raises(SystemExit) as ended:
            cli.main(["doctor"])
        assert ended.value.code == 128 + signal.SIGHUP
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_installed_command_needs_no_environment() -> None:
    place = os.path.join(os.path.dirname(sys.executable), "irevla")
    if not os.path.exists(place):
        pytest.skip("irevla is not installed beside this Python")
    done = subprocess.run([place, "--version"], env={}, capture_output=True, text=True, check=True)
    assert done.stdout == f"irevla {importlib.import_module('irevla_trainer').__version__}\n"


def test_doctor_speaks_its_documented_json() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "irevla_trainer.cli", "doctor", "--json"], capture_output=True, text=True
    )
    report = json.loads(done.stdout)
    assert set(report) == {"ready", "checks"}
    for check in report["checks"]:
        assert set(check) == {"name", "status", "found", "note"}
        assert check["status"] in ("ok", "absent", "missing")
    missing = [check["name"] for check in report["checks"] if check["status"] == "missing"]
    assert report["ready"] == (not missing)
    assert done.returncode == (0 if report["ready"] else 1)
    names = {check["name"] for check in report["checks"]}
    assert {"Python", "rclpy", "irevla_msgs", "rosbag2_py", "cv_bridge", "rendering", "middleware", "GPU"} <= names


def test_doctor_names_what_is_used_instead() -> None:
    from irevla_trainer.diagnosis import diagnose

    absent = {check.name: check.note for check in diagnose() if check.status == "absent"}
    if "rosbag2_py" in absent:
        assert "IREVLA_BAG_BACKEND=rosbags" in absent["rosbag2_py"]
    assert all(absent.values())
