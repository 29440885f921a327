"""Peak memory of a part of a program."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

import psutil
import torch


class PeakMemory:
    """Largest memory since `reset`: on a GPU what is allocated, else the resident set above what it was at the start.

    Args:
        device: Whose memory.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        _give_back()
        self._start = psutil.Process().memory_info().rss

    def reset(self) -> None:
        """Forget what was before."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            # "5" resets the peak of the resident set, see proc(5).
            Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> int:
        """Bytes."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        lines = Path("/proc/self/status").read_text().splitlines()
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        return kilobytes * 1024 - self._start


def _give_back() -> None:
    """Let the system have the memory that is free: taken again, it would not show in the resident set."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
