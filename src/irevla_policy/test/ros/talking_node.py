"""A node for tests: says a lot, and counts in the file of its argument how often it did."""

from __future__ import annotations

import sys
from pathlib import Path

from rclpy.node import Node

from irevla_policy.ros.lifecycle import spin


class TalkingNode(Node):
    """Logs a line of 1,000 characters a hundred times a second, and the last one when it ends."""

    def __init__(self) -> None:
        super().__init__("talking")
        self._count = 0
        self.create_timer(0.01, self._talk)

    def _talk(self) -> None:
        self._count += 1
        self.get_logger().info(f"line {self._count}: {'x' * 1000}")
        Path(sys.argv[1]).write_text(str(self._count))

    def close(self) -> None:
        """Say goodbye."""
        self.get_logger().info(f"goodbye after {self._count}")


if __name__ == "__main__":
    spin(TalkingNode)
