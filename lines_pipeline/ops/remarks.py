"""What an op tells of a whole tensor while it merges it: a fallback, say. The run tells it as a note."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_texts: ContextVar[list[str] | None] = ContextVar("remarks", default=None)


def remark(text: str) -> None:
    """Tell something of the tensor in hand; lost where nobody listens."""
    texts = _texts.get()
    if texts is not None:
        texts.append(text)


@contextmanager
def remarks() -> Iterator[list[str]]:
    """Listen to what ops tell in this context."""
    texts: list[str] = []
    token = _texts.set(texts)
    try:
        yield texts
    finally:
        _texts.reset(token)
