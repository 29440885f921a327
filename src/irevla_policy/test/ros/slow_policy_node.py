"""The policy node with a model that takes its time.

Run as `python slow_policy_node.py SECONDS` with ROS arguments behind: every forward pass takes that much longer.
"""

from __future__ import annotations

import sys
import time

from irevla_policy.model.policy import VLAPolicy
from irevla_policy.ros import policy_node


def main(seconds: float) -> None:
    act = VLAPolicy.act

    def act_slowly(policy, observations, states):
        time.sleep(seconds)
        return act(policy, observations, states)

    VLAPolicy.act = act_slowly
    policy_node.main()


if __name__ == "__main__":
    main(float(sys.argv.pop(1)))
