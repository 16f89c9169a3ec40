"""Reads sizes in bytes as people write them: ``4GB``, ``4GiB``."""

from __future__ import annotations

import re
from decimal import Decimal

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_BYTES = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]*)", re.ASCII)


def parse_bytes(text: str | int) -> int:
    """Return the bytes in ``4GB`` (10^9), ``4GiB`` (2^30), ``500MB`` or a plain number; ValueError for other texts."""
    match = _BYTES.fullmatch(str(text).strip())
    if not match or match[2].upper() not in _UNITS:
        raise ValueError(f"expected a size such as 4GB or 512MiB, found '{text}'")
    nbytes = int(Decimal(match[1]) * _UNITS[match[2].upper()])
    if not nbytes:
        raise ValueError(f"expected a size of at least one byte, found '{text}'")
    return nbytes
