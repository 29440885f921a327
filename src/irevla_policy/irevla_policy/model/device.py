"""Where a model can run."""

from __future__ import annotations

import torch

from irevla_policy.errors import UserError


class DeviceError(UserError, ValueError):
    """There is no such device, or this torch cannot use it."""


def require_device(name: str) -> torch.device:
    """The device of that name, tried out.

    Args:
        name: `cpu`, `cuda`, `cuda:1`, ...

    Raises:
        DeviceError: It cannot be used; names those that can.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        usable = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise DeviceError(
            f"device {name!r} cannot be used ({str(error).splitlines()[0]}); usable here: {', '.join(usable)}"
        ) from error
    return device
