from typing import Any

from shape_msgs.msg import SolidPrimitive

class CollisionObject:
    ADD: bytes
    header: Any
    id: str
    operation: bytes
    primitives: list[SolidPrimitive]
    primitive_poses: list[Any]
    def __init__(self, *, id: str, operation: bytes) -> None: ...
