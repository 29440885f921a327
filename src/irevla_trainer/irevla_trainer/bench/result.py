"""What every benchmark returns: figures with units in their names, targets, and whether they hold."""

from __future__ import annotations

import json
import operator
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from irevla_policy.durable import write_text

_SENSES: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le}


@dataclass(frozen=True)
class Target:
    """A bound that a figure must keep."""

    sense: str
    value: float

    def holds(self, figure: float) -> bool:
        """Whether the figure keeps the bound; a NaN never does."""
        return bool(_SENSES[self.sense](figure, self.value))


@dataclass
class BenchResult:
    """Outcome of one benchmark.

    Attributes:
        name: Name of the benchmark.
        figures: Figure name, unit included, to its value.
        targets: Figure name to the bound that it must keep.
        details: Whatever else helps to understand the figures.
        seconds: Wall time of the benchmark.
    """

    name: str
    figures: dict[str, float]
    targets: dict[str, Target] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def missed(self) -> list[str]:
        """Names of the figures that miss their target."""
        return [name for name, target in self.targets.items() if not target.holds(self.figures[name])]

    @property
    def holds(self) -> bool:
        """Whether every target is kept."""
        return not self.missed

    def to_json(self) -> dict[str, Any]:
        """The documented JSON form of the result."""
        return {
            "name": self.name,
            "command": " ".join(["irevla", *sys.argv[1:]]),
            "machine": machine(),
            "seconds": round(self.seconds, 1),
            "figures": self.figures,
            "targets": {name: {"sense": t.sense, "value": t.value} for name, t in self.targets.items()},
            "holds": self.holds,
            "details": self.details,
        }

    def table(self) -> str:
        """The figures beside their targets, one a line."""
        width = max(len(name) for name in self.figures)
        lines = []
        for name, value in self.figures.items():
            target = self.targets.get(name)
            verdict = "" if target is None else f"   {target.sense} {target.value:g}   "
            if target is not None:
                verdict += "holds" if target.holds(value) else "MISSED"
            lines.append(f"  {name:<{width}}  {value:>12.4g}{verdict}")
        return "\n".join([f"{self.name} ({self.seconds:.0f} s)", *lines])


def measure(name: str, run: Callable[[], BenchResult], json_file: Path | None) -> BenchResult:
    """Run a benchmark, time it, print its table and write its JSON."""
    start = time.monotonic()
    result = run()
    result.name, result.seconds = name, time.monotonic() - start
    print(result.table())
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        write_text(json_file, json.dumps(result.to_json(), indent=2) + "\n")
    return result


def machine() -> dict[str, Any]:
    """The machine that the figures were measured on."""
    import torch

    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": psutil.cpu_count(logical=True),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
