"""Seeds of episodes: training, validation, test and gates never share one."""

from __future__ import annotations

from irevla_policy.errors import UserError

_SIZE = 1_000_000
RANGES = {"train": 0, "validation": _SIZE, "test": 2 * _SIZE, "gate": 3 * _SIZE}
"""First seed of each range; each holds a million."""


class SeedError(UserError, ValueError):
    """More seeds than a range has, or no such range."""


def episode_seeds(purpose: str, count: int, first: int = 0) -> range:
    """Seeds of episodes, the same for every policy, so that comparisons are paired.

    Args:
        purpose: 'train' (demonstrations, RL), 'validation' (model selection), 'test' (reported results) or 'gate'
            (promotion).
        count: Number of episodes.
        first: Offset in the range; the option `--seed` of the commands.

    Raises:
        SeedError: Unknown purpose, or the range is exceeded.
    """
    if purpose not in RANGES:
        raise SeedError(f"seeds: purpose must be one of {', '.join(RANGES)}, found {purpose!r}")
    if first < 0 or count < 0 or first + count > _SIZE:
        raise SeedError(f"seeds: {count} seeds from {first} on do not fit in [0, {_SIZE})")
    return range(RANGES[purpose] + first, RANGES[purpose] + first + count)
