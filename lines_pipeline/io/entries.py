"""Writes small files that are whole or absent, and checks results in them when they are read back."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import blake3

from lines_pipeline.core.fingerprints import canonical_json
from lines_pipeline.io.temporaries import temporary_path


def write_entry(path: Path, result: Any) -> None:
    """Write a result that JSON can hold, so that it is whole or absent; safe with several processes."""
    write_atomically(path, canonical_json({"check": _check(result), "result": result}).encode())


def read_entry(path: Path, *, mark_used: bool = True) -> Any:
    """Return the result; None where there is none. One that is damaged is removed, another is marked as used now.

    Where nothing can be removed or marked, as in another user's cache, things stay as they are.
    """
    try:
        content = json.loads(path.read_bytes())
        if content["check"] == _check(content["result"]):
            if mark_used:
                with suppress(OSError):
                    os.utime(path)
            return content["result"]
    except OSError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    with suppress(OSError):
        path.unlink(missing_ok=True)
    return None


def file_digest(path: Path) -> str:
    """Return BLAKE3 of a file, in hex."""
    digest = blake3.blake3(max_threads=blake3.blake3.AUTO)
    digest.update_mmap(path)
    return digest.hexdigest()


def _check(result: Any) -> str:
    return blake3.blake3(canonical_json(result).encode()).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file so that it is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
