"""Names of files that are not complete yet. They tell who writes them, so that what killed processes left can go."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from functools import cache
from hashlib import blake2b
from pathlib import Path


def temporary_path(path: Path) -> Path:
    """A name beside ``path``, for this process alone, that ``sweep_temporaries`` knows."""
    return path.with_name(f".{path.name}.{_machine()}-{os.getpid()}.{os.urandom(4).hex()}.tmp")


def sweep_temporaries(folder: Path) -> None:
    """Remove the temporary files in a folder that were left by processes of this machine which have ended."""
    for leftover in folder.glob(".*.tmp"):
        machine, _, process = leftover.name.split(".")[-3].rpartition("-")
        if machine == _machine() and process.isdigit() and not _is_alive(int(process)):
            leftover.unlink(missing_ok=True)


@cache
def _machine() -> str:
    """Where process numbers mean what they mean here: host, boot and namespace."""
    told = [socket.gethostname()]
    with suppress(OSError):  # not on every system
        told.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        told.append(os.readlink("/proc/self/ns/pid"))
    return blake2b("\n".join(told).encode(), digest_size=4).hexdigest()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
