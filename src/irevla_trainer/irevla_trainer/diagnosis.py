"""What is installed on this machine, what is missing, and what is used in place of it.

What could crash or hang, or imports for seconds, runs in a process of its own.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from irevla_policy.graph.environment import default_environment

OK, ABSENT, MISSING = "ok", "absent", "missing"

_SET_UP = "run: make setup"

# Interfaces that the nodes use.
_MESSAGES = (
    "irevla_msgs",
    "builtin_interfaces",
    "diagnostic_msgs",
    "lifecycle_msgs",
    "rcl_interfaces",
    "rosgraph_msgs",
    "sensor_msgs",
    "std_msgs",
    "std_srvs",
    "trajectory_msgs",
)

# ROS packages that only a full installation has: module, and what is used in its place.
_FULL_INSTALL = {
    "launch_ros": "irevla up brings the same graphs up",
    "rosbag2_py": "bags are read and written in pure Python (IREVLA_BAG_BACKEND=rosbags)",
    "cv_bridge": "images are converted with numpy (IREVLA_IMAGE_BACKEND=numpy)",
    "moveit": "collisions and the arm's way home with Pinocchio",
}

# Python packages that the default needs: module and distribution.
_PYTHON_PACKAGES = {
    "numpy": "numpy",
    "torch": "torch",
    "transformers": "transformers",
    "peft": "peft",
    "safetensors": "safetensors",
    "pinocchio": "pin",
    "mujoco": "mujoco",
    "metaworld": "metaworld",
    "gymnasium": "gymnasium",
    "yaml": "PyYAML",
    "PIL": "pillow",
    "matplotlib": "matplotlib",
    "imageio_ffmpeg": "imageio-ffmpeg",
}

_RENDER = """
import time, mujoco
model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><light pos='0 0 3'/><geom size='1' rgba='1 0 0 1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 64, 64) as renderer:
    renderer.update_scene(data)
    renderer.render()
    start = time.perf_counter()
    picture = renderer.render()
    seconds = time.perf_counter() - start
assert picture[32, 32, 0] > 50, "the picture is black"
print(f"64x64 in {1e3 * seconds:.1f} ms")
"""

_GPU = """
import torch
if torch.cuda.is_available():
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    print(f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB")
"""

# A demo writes about 1 GB of bags, checkpoints and videos.
_DISK_NEEDED = 2.0
# Smallest shared memory in which Fast DDS can pass camera images between processes.
_SHARED_MEMORY_NEEDED = 64.0


@dataclass(frozen=True)
class Check:
    """One finding; the fields are those that `irevla doctor --json` documents."""

    name: str
    status: str
    found: str = ""
    note: str = ""


def diagnose() -> Iterator[Check]:
    """Look at everything, the quick things first."""
    yield _python()
    yield _sourced()
    yield from (_python_package(module, name) for module, name in _PYTHON_PACKAGES.items())
    yield _module("rclpy", MISSING, _SET_UP)
    yield from (_module(name, MISSING, _SET_UP) for name in _MESSAGES)
    yield from (_of_full_install(name, instead) for name, instead in _FULL_INSTALL.items())
    yield _model_files()
    yield from _disk()
    yield _middleware()
    yield _rendering()
    yield _gpu()


def _python() -> Check:
    found = f"{platform.python_version()} at {sys.executable}"
    if (3, 10) <= sys.version_info[:2] <= (3, 12):
        return Check("Python", OK, found)
    return Check("Python", MISSING, found, "expected 3.10, 3.11 or 3.12; run: make setup PYTHON=/path/to/python3.12")


def _sourced() -> Check:
    """Whether packages of another ROS installation would shadow those of this environment."""
    distribution = os.environ.get("ROS_DISTRO", "")
    if not distribution:
        return Check("sourced ROS installation", ABSENT, "", "none is needed")
    if distribution == "jazzy":
        return Check("sourced ROS installation", OK, distribution)
    return Check("sourced ROS installation", MISSING, distribution, "expected jazzy or none; use a fresh shell")


def _python_package(module: str, distribution: str) -> Check:
    if _place_of(module) is None:
        return Check(distribution, MISSING, "", _SET_UP)
    return Check(distribution, OK, _version(distribution))


def _module(name: str, otherwise: str, note: str) -> Check:
    place = _place_of(name)
    if place is None:
        return Check(name, otherwise, "", note)
    return Check(name, OK, f"{_version(name)} in {place}".strip())


def _of_full_install(name: str, instead: str) -> Check:
    check = _module(name, ABSENT, instead)
    if check.status != OK:
        return check
    # Built for another numpy, a module is there and yet cannot be imported.
    works, said = _in_process(["-c", f"import {name}"], dict(os.environ))
    return check if works else Check(name, ABSENT, f"{check.found}, cannot be imported: {said}", instead)


def _place_of(module: str) -> Path | None:
    """Folder that a module would be imported from, without importing it.

    A folder of that name in the working directory (`launch/`, say) is a namespace package and no installation.
    """
    spec = importlib.util.find_spec(module)
    return Path(spec.origin).parent.parent if spec is not None and spec.origin is not None else None


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _model_files() -> Check:
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME", "~/.cache/huggingface"), "hub"))
    models = sorted(
        path.name.removeprefix("models--").replace("--", "/") for path in cache.expanduser().glob("models--*")
    )
    if models:
        return Check("pretrained models", OK, ", ".join(models))
    return Check("pretrained models", ABSENT, "", "the default model needs none; others load from the hub or a folder")


def _disk() -> Iterator[Check]:
    yield _free(Path.cwd(), "free disk", _DISK_NEEDED * 2**30, MISSING, "free some space, or work in another folder")
    shared_memory = Path("/dev/shm")
    if shared_memory.is_dir():
        note = "camera images go over UDP instead; in a container: docker run --shm-size=1g"
        yield _free(shared_memory, "free shared memory", _SHARED_MEMORY_NEEDED * 2**20, ABSENT, note)


def _free(folder: Path, name: str, needed: float, otherwise: str, note: str) -> Check:
    free = shutil.disk_usage(folder).free
    found = f"{free / 2**30:.1f} GiB at {folder}"
    if free >= needed:
        return Check(name, OK, found)
    return Check(name, otherwise, found, f"expected {needed / 2**30:.2g} GiB; {note}")


def _middleware() -> Check:
    environment = {**default_environment(), **os.environ}
    works, said = _in_process(["-m", "irevla_policy.ros.loopback"], environment)
    domain = environment.get("ROS_DOMAIN_ID", "0")
    reach = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    if works:
        return Check("middleware", OK, f"{said}, domain {domain}, discovery {reach}")
    note = f"no message came back: {said}" if said else "no message came back within 5 s"
    return Check("middleware", MISSING, f"domain {domain}, discovery {reach}", note)


def _rendering() -> Check:
    environment = {**default_environment(), **os.environ}
    works, said = _in_process(["-c", _RENDER], environment)
    backend = environment["MUJOCO_GL"]
    if works:
        return Check("rendering", OK, f"{said} with MUJOCO_GL={backend}")
    return Check("rendering", MISSING, f"MUJOCO_GL={backend}: {said}", "run: apt-get install libegl1 libgl1-mesa-dri")


def _gpu() -> Check:
    works, said = _in_process(["-c", _GPU], dict(os.environ))
    if works and said:
        return Check("GPU", OK, said)
    return Check("GPU", ABSENT, "" if works else said, "the default model runs on the CPU")


def _in_process(words: list[str], environment: dict[str, str], timeout: float = 60.0) -> tuple[bool, str]:
    """Run this Python with `words`.

    Returns:
        Whether it exited with 0, and the last line that it printed (of its errors when it failed).
    """
    try:
        done = subprocess.run(
            [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer within {timeout:.0f} s"
    if done.returncode == 0:
        return True, _last_line(done.stdout)
    return False, _last_line(done.stderr) or f"ended with exit code {done.returncode}"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1].strip()
