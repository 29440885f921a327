"""Installs irevla_policy as an ament package: nodes into lib/, launch files and configuration into share/."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "irevla_policy"


def shared(name: str) -> list[tuple[str, list[str]]]:
    """Every file below the workspace's folder `name`, to which `share/name` links, for the package's share."""
    link = Path("share", name)
    found: dict[str, list[str]] = {}
    for path in sorted(link.resolve().rglob("*")):
        if path.is_file() and not path.name.endswith((".pyc", "~")):
            inside = path.relative_to(link.resolve())
            found.setdefault(str(Path("share", PACKAGE, name, inside.parent)), []).append(str(link / inside))
    return list(found.items())


setup(
    name=PACKAGE,
    version="0.1.0",
    packages=find_packages(exclude=["test", "test.*"]),
    package_data={PACKAGE: ["**/*.json", "**/*.yaml", "**/*.txt", "**/*.xml"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        *shared("launch"),
        *shared("config"),
    ],
    zip_safe=False,
    python_requires=">=3.10",
    maintainer="The irevla maintainers",
    maintainer_email="irevla-maintainers@example.org",
    description="What runs beside the robot: policy, guard, recorder, simulated arm and their node graphs.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "irevla_sim = irevla_policy.ros.sim_node:main",
            "irevla_expert = irevla_policy.ros.expert_node:main",
            "irevla_guard = irevla_policy.ros.guard_node:main",
            "irevla_keyboard = irevla_policy.ros.keyboard_node:main",
            "irevla_joystick = irevla_policy.ros.joystick_node:main",
            "irevla_arm = irevla_policy.ros.arm_node:main",
            "irevla_policy = irevla_policy.ros.policy_node:main",
            "irevla_success = irevla_policy.ros.success_node:main",
            "irevla_recorder = irevla_policy.ros.recorder_node:main",
        ],
    },
)
