"""Names files that are not complete yet by their writer, so that those of killed processes can go."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import blake2b
from pathlib import Path


def temporary_path(path: Path) -> Path:
    """Return a name beside ``path``, for this process alone, that ``sweep_temporaries`` knows."""
    return path.with_name(f".{path.name}.{_machine()}-{os.getpid()}.{os.urandom(4).hex()}.tmp")


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield a folder for this user alone with such a name, which goes in the end with all that is in it."""
    folder = temporary_path(path)
    folder.mkdir(0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_temporaries(folder: Path) -> None:
    """Remove what processes of this machine which have ended left in a folder: temporary files and folders.

    In a folder that cannot be written they stay.
    """
    for leftover in folder.glob(".*.tmp"):
        machine, _, process = leftover.name.split(".")[-3].rpartition("-")
        if machine != _machine() or not process.isdigit() or _is_alive(int(process)):
            continue
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            with suppress(OSError):
                leftover.unlink()


@cache
def _machine() -> str:
    """Return a name for host, boot and namespace, within which process numbers are unique."""
    marks = [socket.gethostname()]
    with suppress(OSError):  # not on every system
        marks.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        marks.append(os.readlink("/proc/self/ns/pid"))
    return blake2b("\n".join(marks).encode(), digest_size=4).hexdigest()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
