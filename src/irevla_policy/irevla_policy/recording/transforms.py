"""Static transforms of an episode: all that have been published, by whomever."""

from __future__ import annotations

from typing import Any

from irevla_policy.recording import interfaces

TYPE = "tf2_msgs/msg/TFMessage"


class StaticTransforms:
    """Collects what many publishers say of /tf_static: the newest transform of each frame counts, as in tf2."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    def add(self, data: bytes) -> bytes:
        """Take a message.

        Args:
            data: A tf2_msgs/TFMessage as CDR.

        Returns:
            One message, as CDR, with everything so far.

        Raises:
            InterfaceError: The bytes are no such message.
        """
        for transform in interfaces.deserialize(data, TYPE).transforms:
            self._known[transform.child_frame_id] = transform
        return interfaces.serialize(interfaces.make(TYPE, transforms=list(self._known.values())), TYPE)
