"""Installs irevla_trainer as an ament package, with the command line `irevla`."""

from setuptools import find_packages, setup

PACKAGE = "irevla_trainer"

setup(
    name=PACKAGE,
    version="0.1.0",
    packages=find_packages(exclude=["test", "test.*"]),
    package_data={PACKAGE: ["**/*.json", "**/*.yaml", "**/*.txt"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
    ],
    zip_safe=False,
    python_requires=">=3.10",
    maintainer="The irevla maintainers",
    maintainer_email="irevla-maintainers@example.org",
    description="What learns: datasets from bags, supervised fine-tuning, evaluation, and the command line irevla.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "irevla = irevla_trainer.cli:main",
            "irevla_trainer = irevla_trainer.ros.trainer_node:main",
            "irevla_player = irevla_trainer.ros.player_node:main",
        ]
    },
)
