"""Where a run stands, for the driver to read; in a file of its own because its actor then starts without torch."""


class Board:
    """An actor on which rank 0 writes how far it is, for the driver to read while `fit` runs."""

    def __init__(self) -> None:
        self.step: tuple[int, int] | None = None

    def write(self, step: int, total: int) -> None:
        """Overwrite what stood there."""
        self.step = (step, total)

    def read(self) -> tuple[int, int] | None:
        """The last step and how many there will be; None before the first."""
        return self.step
