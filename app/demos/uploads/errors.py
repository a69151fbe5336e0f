"""The one error that a visitor is told word for word."""


class FileError(Exception):
    """The file is at fault: trying again would end the same. The message says what to change."""
