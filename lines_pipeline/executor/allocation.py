"""Tells the C library to keep the memory of blocks for the next blocks, and when to hand it back."""

from __future__ import annotations

import ctypes
from functools import cache

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Parameters of glibc's ``mallopt``."""
_LARGEST = 32 * 2**20
"""The largest request that glibc lets come from the heap."""


@cache
def keep_freed_blocks() -> None:
    """Have the C library keep freed blocks, once a process; do nothing where it is not glibc.

    Blocks are requested and freed by the thousand. By default glibc hands much of that back to the system at once, and
    every block then costs page faults, for which all threads of a process wait.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_MMAP_THRESHOLD, _LARGEST)
    mallopt(_TRIM_THRESHOLD, 8 * _LARGEST)
    mallopt(_TOP_PAD, _LARGEST // 2)


def return_freed_blocks() -> None:
    """Hand the memory of freed blocks back to the system; nothing where the C library is not glibc.

    Where threads allocate what they keep between blocks, memory is freed in pieces that no later block fits into.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return
    trim(0)
