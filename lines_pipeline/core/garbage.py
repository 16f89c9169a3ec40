"""How a process of this project collects garbage."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

_OBJECTS_BETWEEN_COLLECTIONS = 200_000
"""Importing torch and MLflow makes millions of lasting objects: looking through them often took a third of start-up."""


def collect_seldom() -> None:
    """Collect garbage less often; call it at the start of a process, before it imports anything large."""
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    atexit.register(gc.freeze)  # or the interpreter would look through all of them once more before it ends


@contextmanager
def uncollected() -> Iterator[None]:
    """Collect no garbage meanwhile, and never look at what was made: for work whose objects stay.

    Only at the start of a process: what is garbage by then is kept for good.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
