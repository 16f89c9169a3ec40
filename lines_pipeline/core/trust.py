"""The folders whose Python a user lets run: a list of their own, which no recipe can change."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lines_pipeline.core.errors import LinesError
from lines_pipeline.core.printable import printable_message

_MAX_BYTES = 1_000_000


class TrustError(LinesError):
    """The list of trusted folders cannot be read or written, or a folder cannot be put on it."""


def store_path() -> Path:
    """Return the file of the list: ``lines-pipeline/trusted.json`` in ``$XDG_CONFIG_HOME`` or ``~/.config``."""
    configured = os.environ.get("XDG_CONFIG_HOME", "")
    try:
        base = Path(configured) if os.path.isabs(configured) else Path.home() / ".config"
    except RuntimeError as error:
        raise TrustError("there is no home folder to keep trusted folders in; set XDG_CONFIG_HOME") from error
    return base / "lines-pipeline" / "trusted.json"


def trusted_folders() -> tuple[Path, ...]:
    """Return the trusted folders, sorted; ``TrustError`` for a list that is damaged, or that others may write."""
    path = store_path()
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise _damaged(path, str(error.strerror)) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _damaged(path, "it is not a regular file")
        if status.st_mode & 0o022 or status.st_uid not in (0, os.geteuid()):
            raise _damaged(path, "others may write it; it has to be yours alone (chmod 600)")
        return _folders(path, os.read(descriptor, _MAX_BYTES + 1))
    finally:
        os.close(descriptor)


def _folders(path: Path, content: bytes) -> tuple[Path, ...]:
    """Return the folders that the content of a trust file lists."""
    try:
        folders = json.loads(content) if len(content) <= _MAX_BYTES else None
    except (ValueError, RecursionError):
        folders = None
    if not isinstance(folders, list) or not all(
        isinstance(folder, str) and os.path.isabs(folder) for folder in folders
    ):
        raise _damaged(path, "it is not a list of folders")
    return tuple(sorted({Path(folder) for folder in folders}))


def _damaged(path: Path, reason: str) -> TrustError:
    return TrustError(f"the list of trusted folders {path} cannot be used: {reason}; mend or remove it")


def why_untrusted(folder: Path) -> str:
    """Return why Python of a folder may not run; an empty text where it may. The folder's real place counts."""
    try:
        real = folder.resolve()
        if any(real.is_relative_to(trusted) for trusted in trusted_folders()):
            return ""
        return f"'{printable_message(str(real))}' is not a trusted folder"
    except (OSError, RuntimeError, ValueError, TrustError) as error:
        return f"'{printable_message(str(folder))}' is not a trusted folder ({error})"


def remedy(folder: Path) -> str:
    """Return what a user can do to let Python of a folder run."""
    with suppress(OSError, RuntimeError, ValueError):
        folder = folder.resolve()
    named = shlex.quote(printable_message(str(folder)))
    return f"give --trust, or allow the folder for good: lines-pipeline trust {named}"


def trust(folder: Path) -> Path:
    """Put a folder, and what lies below it, on the list; return its real path."""
    try:
        real = folder.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise TrustError(f"'{printable_message(str(folder))}' is not there, expected a folder") from error
    if not real.is_dir():
        raise TrustError(f"'{printable_message(str(real))}' is a file, expected the folder that holds it")
    with _changing():
        _write({*trusted_folders(), real})
    return real


def distrust(folder: Path) -> Path:
    """Take a folder off the list; return its path. The folder need not be there any more."""
    try:
        real = folder.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise TrustError(f"'{printable_message(str(folder))}' is no path") from error
    with _changing():
        known = set(trusted_folders())
        if real not in known:
            above = [parent for parent in sorted(known) if real.is_relative_to(parent)]
            hint = f"; it is trusted as part of '{above[-1]}'" if above else ""
            raise TrustError(f"'{printable_message(str(real))}' is not on the list of trusted folders{hint}")
        _write(known - {real})
    return real


@contextmanager
def _changing() -> Iterator[None]:
    """Keep other processes from changing the list of trusted folders meanwhile."""
    folder = store_path().parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise TrustError(f"the list of trusted folders cannot be kept in {folder}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    except OSError as error:
        raise TrustError(f"the list of trusted folders cannot be kept in {folder}: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _write(folders: set[Path]) -> None:
    target = Path(os.path.realpath(store_path()))
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".trusted-", suffix=".tmp")  # mode 0600
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump([str(folder) for folder in sorted(folders)], file, indent=2)
            file.write("\n")
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
