"""What a visitor is told word for word."""


class PageError(Exception):
    """Why there is no page, in a sentence for whoever asked for it."""

    def __init__(self, sentence: str, status: int | None = None) -> None:
        super().__init__(sentence)
        self.status = status


class PassingError(PageError):
    """It may work the next time."""
