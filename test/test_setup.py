"""The set-up: quick when nothing has changed, anew when something has, clear when it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A copy of what the set-up looks at, with a Python, a pip and a colcon that only note that they were called."""
    folder = tmp_path / "workspace"
    for name in ("src", "launch", "config"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "test"))
    for name in ("requirements.txt", "colcon.meta", "scripts/setup.sh"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("cmake", "g++", "make"):
        _script(programs / name, "exit 0")
    _script(programs / "ldconfig", 'echo "libEGL.so.1 libGL.so.1 "')
    # Makes a virtual environment whose python and colcon note what they are asked.
    _script(
        programs / "python3.12",
        f"""
case "$*" in
  *"-m venv"*)
    mkdir -p .venv/bin .venv/share .venv/site
    cp "$0" .venv/bin/python
    printf '#!/bin/sh\\necho colcon >>{tmp_path}/calls\\nmkdir -p .venv/build/irevla_policy/irevla_policy.egg-info' \
        >.venv/bin/colcon
    printf '\\nmkdir -p .venv/build/irevla_trainer/irevla_trainer.egg-info\\n' >>.venv/bin/colcon
    chmod +x .venv/bin/colcon ;;
  *"pip install"*) echo pip >>{tmp_path}/calls ;;
  *purelib*) echo .venv/site ;;
  *include*) echo {tmp_path} ;;
esac
""",
    )
    (tmp_path / "Python.h").touch()
    return folder


def _script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def set_up(workspace: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{workspace.parent / 'programs'}:{os.environ['PATH']}"
    return subprocess.run(
        ["scripts/setup.sh"],
        cwd=workspace,
        env={"PATH": path, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def calls(workspace: Path) -> list[str]:
    """What the set-up has installed and built since the last question."""
    path = workspace.parent / "calls"
    found = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def test_the_first_time_installs_and_builds_and_the_second_does_nothing(workspace: Path) -> None:
    first = set_up(workspace)
    assert first.returncode == 0, first.stderr
    assert calls(workspace) == ["pip", "colcon"]
    second = set_up(workspace)
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert calls(workspace) == []


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("requirements.txt", ["pip", "colcon"]),
        ("src/irevla_msgs/msg/Action.msg", ["colcon"]),
        ("src/irevla_policy/package.xml", ["colcon"]),
        ("src/irevla_trainer/setup.py", ["colcon"]),
        ("src/irevla_policy/irevla_policy/settings.py", []),
    ],
)
def test_a_change_repeats_what_depends_on_it(workspace: Path, path: str, expected: list[str]) -> None:
    set_up(workspace)
    calls(workspace)
    with (workspace / path).open("a") as file:
        file.write("\n# changed\n")
    assert set_up(workspace).returncode == 0
    assert calls(workspace) == expected


def test_a_new_launch_file_is_installed(workspace: Path) -> None:
    set_up(workspace)
    calls(workspace)
    (workspace / "launch" / "new.launch.py").touch()
    set_up(workspace)
    assert calls(workspace) == ["colcon"]


def test_a_moved_folder_is_set_up_anew(workspace: Path) -> None:
    set_up(workspace)
    calls(workspace)
    moved = workspace.rename(workspace.with_name("moved"))
    assert "has moved" in set_up(moved).stdout
    assert calls(moved) == ["pip", "colcon"]


def test_a_failed_build_is_repeated(workspace: Path) -> None:
    set_up(workspace)
    calls(workspace)
    good = (workspace / ".venv/bin/colcon").read_text()
    _script(workspace / ".venv/bin/colcon", "echo no compiler; exit 1")
    (workspace / "src/irevla_msgs/msg/Action.msg").write_text("bool new\n")
    failed = set_up(workspace)
    assert failed.returncode == 1
    assert "no compiler" in failed.stderr
    assert "setup: this command failed" in failed.stderr
    (workspace / ".venv/bin/colcon").write_text(good)
    assert set_up(workspace).returncode == 0
    assert calls(workspace) == ["colcon"]


def test_a_python_out_of_range_is_refused(workspace: Path) -> None:
    old = workspace.parent / "programs" / "python2"
    _script(old, "exit 1")
    done = set_up(workspace, PYTHON=str(old))
    assert done.returncode == 1
    assert done.stderr == f"setup: PYTHON={old} is not a Python 3.10, 3.11 or 3.12\n"


def test_missing_packages_are_named_when_they_cannot_be_installed(workspace: Path) -> None:
    programs = workspace.parent / "programs"
    _script(programs / "ldconfig", "exit 0")
    _script(programs / "id", "echo 1000")
    _script(programs / "apt-get", "exit 1")
    _script(programs / "sudo", "exit 1")
    done = set_up(workspace)
    assert done.returncode == 1
    assert "run this as root" in done.stderr
    assert "apt-get install --yes --no-install-recommends libegl1 libgl1" in done.stderr
    assert calls(workspace) == []


def test_missing_packages_are_installed_with_sudo(workspace: Path) -> None:
    programs = workspace.parent / "programs"
    _script(programs / "ldconfig", "exit 0")
    _script(programs / "id", "echo 1000")
    _script(programs / "sudo", f'echo sudo >>{workspace.parent}/calls; [ "$1" != -n ] || shift; exec "$@"')
    _script(programs / "apt-get", f"echo $1 >>{workspace.parent}/calls")
    assert set_up(workspace).returncode == 0
    assert calls(workspace) == ["sudo", "sudo", "update", "sudo", "install", "pip", "colcon"]
