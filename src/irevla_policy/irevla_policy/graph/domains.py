"""ROS domains that nobody else on this machine is on."""

from __future__ import annotations

import os
import random
import socket
import sys
from contextlib import suppress
from pathlib import Path

from irevla_policy.errors import RunError

# Above 101 the ports of a domain can clash with those that Linux hands out; 0 is everybody's default.
_DOMAINS = range(1, 102)

_FIRST_PORT, _PORTS = 7400, 250
"""DDSI-RTPS 9.6.1: domain d has so many UDP ports from 7400 + 250 d on."""

_held: dict[int, socket.socket] = {}


def other_domain() -> int:
    """A ROS domain by chance that no process of this machine is on, and none draws as long as this one lives.

    Never the one that this process is on itself; what it has drawn before can come again once nobody is there any more.

    Raises:
        RunError: All are taken.
    """
    present = os.environ.get("ROS_DOMAIN_ID", "").strip()
    taken = _in_use() | ({int(present)} if present.isdigit() else set())
    free = [domain for domain in _DOMAINS if domain not in taken]
    for domain in random.SystemRandom().sample(free, len(free)):
        if _hold(domain):
            return domain
    raise RunError("ROS_DOMAIN_ID: none of the domains 1 to 101 is free on this machine; end graphs that nobody needs")


def _in_use() -> set[int]:
    """Domains whose ports are open in this network namespace; none where that cannot be known."""
    found = set()
    for table in ("udp", "udp6"):
        with suppress(OSError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                port = int(line.split()[1].rsplit(":", 1)[1], 16)
                found.add((port - _FIRST_PORT) // _PORTS)
    return found


def _hold(domain: int) -> bool:
    """Keep others from drawing it until this process ends; False when another one does so.

    A process that is about to start a graph has no ports open yet. A name without a file has the scope of the ports,
    the network namespace, and leaves nothing behind.
    """
    if domain in _held or sys.platform != "linux":
        return True
    name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        name.bind(f"\0irevla-domain-{domain}")
    except OSError:
        name.close()
        return False
    _held[domain] = name
    return True
