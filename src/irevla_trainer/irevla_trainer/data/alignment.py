"""Which image and joint states belong to which decision: by stamps, never by the order of arrival."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Stamps = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Alignment:
    """Decisions with the sensor messages that belong to them, in the order of their stamps.

    Attributes:
        decisions: Index of each kept decision among those given, `[T]`.
        sensors: Sensor name to the index of its message for each kept decision, `[T]`.
        dropped: Reason to number of decisions that were left out.
    """

    decisions: npt.NDArray[np.int64]
    sensors: dict[str, npt.NDArray[np.int64]]
    dropped: Counter[str] = field(default_factory=Counter)


def align(
    decisions: Sequence[int] | Stamps,
    sensors: Mapping[str, Sequence[int] | Stamps],
    slop: Mapping[str, int],
) -> Alignment:
    """Find for each decision the message of every sensor that its observation was made of.

    A repeated stamp (of a decision or of a sensor) is the same thing sent twice: the first one counts.

    Args:
        decisions: Observation stamps of the decisions, ns, in any order.
        sensors: Sensor name to the stamps of its messages, ns, in any order.
        slop: Sensor name to the largest difference of stamps, ns; 0 demands equal ones.

    Returns:
        The decisions of which every sensor has a message. Reasons for dropping the others: `repeated stamp` and
        `no NAME at the stamp`, the name being the first sensor without one.
    """
    stamps = np.asarray(decisions, dtype=np.int64)
    unique, first = np.unique(stamps, return_index=True)
    dropped: Counter[str] = Counter()
    if len(unique) < len(stamps):
        dropped["repeated stamp"] = len(stamps) - len(unique)
    keep = np.ones(len(unique), dtype=bool)
    found: dict[str, npt.NDArray[np.int64]] = {}
    for name, given in sensors.items():
        index, distance = _nearest(unique, np.asarray(given, dtype=np.int64))
        missing = keep & (distance > slop[name])
        if missing.any():
            dropped[f"no {name} at the stamp"] = int(missing.sum())
        keep &= ~missing
        found[name] = index
    return Alignment(first[keep], {name: index[keep] for name, index in found.items()}, dropped)


def _nearest(wanted: Stamps, given: Stamps) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Index of the nearest given stamp and its distance, for each wanted one; of two equally near the older."""
    if not len(given):
        return np.zeros(len(wanted), np.int64), np.full(len(wanted), np.iinfo(np.int64).max)
    stamps, index = np.unique(given, return_index=True)
    after = (
        np.clip(np.searchsorted(stamps, wanted), 1, len(stamps) - 1)
        if len(stamps) > 1
        else np.zeros(len(wanted), np.int64)
    )
    before = np.maximum(after - 1, 0)
    nearer_before = np.abs(wanted - stamps[before]) <= np.abs(stamps[after] - wanted)
    chosen = np.where(nearer_before, before, after)
    return index[chosen], np.abs(stamps[chosen] - wanted)


def in_force(times: Sequence[int] | Stamps, at: Sequence[int] | Stamps) -> npt.NDArray[np.int64]:
    """Index of the newest value whose time is not after each moment; -1 where there is none.

    Args:
        times: When values came into force, ns, in any order; of equal ones the later in the sequence counts.
        at: Moments, ns.
    """
    given = np.asarray(times, dtype=np.int64)
    order = np.argsort(given, kind="stable")
    place = np.searchsorted(given[order], np.asarray(at, dtype=np.int64), side="right") - 1
    return np.where(place >= 0, order[np.maximum(place, 0)] if len(order) else -1, -1)
