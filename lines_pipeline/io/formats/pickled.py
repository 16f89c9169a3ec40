"""Declares what a read pickle becomes: plain containers and values, and records of objects that were not made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class PickleError(ValueError):
    """Says that a pickle is damaged, too large, or of a kind that checkpoints do not have."""


class ShortPickleError(PickleError):
    """Says that a pickle goes on after the bytes that were given."""


class Name:
    """Names a class or function in full."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class Call:
    """Records an object that is not made: its class or function, the arguments and the state that were to make it."""

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: str, arguments: Any) -> None:
        self.name, self.arguments, self.state = name, arguments, None


class Reference:
    """Refers to an object outside the pickle, such as a storage of torch."""

    __slots__ = ("identity",)

    def __init__(self, identity: Any) -> None:
        self.identity = identity


class Entries(dict[str, Any]):
    """Holds a dictionary's entries whose keys are texts; ``unnamed`` counts the others."""

    __slots__ = ("unnamed",)

    def __init__(self) -> None:
        super().__init__()
        self.unnamed = 0

    def put(self, key: Any, value: Any) -> None:
        """Set an entry; other keys than texts are never hashed, for that can be made to take for ever."""
        if type(key) is str:
            self[key] = value
        else:
            self.unnamed += 1


@dataclass(frozen=True)
class Pickled:
    """Holds the value of a pickle, where it ends, and its references to objects outside, in order."""

    content: Any
    end: int
    references: tuple[Reference, ...]
