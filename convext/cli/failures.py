"""How a command ends that cannot do what it is asked."""

from __future__ import annotations

__all__ = ["DONE", "FOUND", "MISSING", "WRONG", "Missing", "Usage"]

DONE, FOUND, WRONG, MISSING = 0, 1, 2, 3


class _Failure(Exception):
    def __init__(self, text: str, remedy: str = "") -> None:
        """`text` says what was expected and what came; `remedy` is what to type, if one command does it."""
        super().__init__(text)
        self.remedy = remedy


class Usage(_Failure):
    """The command line asks for what there is not."""


class Missing(_Failure):
    """Something that is not installed."""
