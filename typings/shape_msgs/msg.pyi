class SolidPrimitive:
    BOX: int
    type: int
    dimensions: list[float]
    def __init__(self, *, type: int, dimensions: list[float]) -> None: ...
