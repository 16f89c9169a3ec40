"""From the path a recipe names to a local file: relative paths and URLs; and outputs that stay in their folder."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from lines_pipeline.core.errors import CheckpointError, PlanError
from lines_pipeline.core.printable import printable
from lines_pipeline.io import hub
from lines_pipeline.io.checkpoints import exists, missing_file
from lines_pipeline.io.temporaries import temporary_path

REMOTE_SCHEMES = ("hf", "s3", "gs", "https")
_MAX_NAME = 120


@dataclass(frozen=True)
class Location:
    """Where a checkpoint lies; ``path`` is None while a remote one has not been downloaded."""

    uri: str
    path: Path | None


def locate(uri: str, folder: Path, downloads: Path) -> Location:
    """Resolve without downloading; ``folder`` is the recipe's. Raises ``CheckpointError`` for what cannot exist.

    What the Hugging Face cache holds whole is taken from there.
    """
    scheme = _scheme(uri)
    if scheme is None:
        path = folder / _expanded(uri)
        if not exists(path):
            raise CheckpointError(missing_file(path))
        return Location(uri, path)
    if scheme not in REMOTE_SCHEMES:
        known = ", ".join(f"{name}://" for name in ("zoo", *REMOTE_SCHEMES))
        raise CheckpointError(f"{printable(uri)}: unknown kind of URL, expected a path or one of {known}")
    repository = hub.parse(uri) if scheme == "hf" else None
    target = _download_target(uri, downloads)
    if target.exists():
        return Location(uri, target)
    return Location(uri, hub.cached(repository) if repository else None)


def download(uri: str, downloads: Path) -> Path:
    """Fetch a remote file (or Hugging Face model folder) into ``downloads``, once. Raises ``CheckpointError``."""
    target = _download_target(uri, downloads)
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _fetch_hub(uri, target) if _scheme(uri) == "hf" else _fetch(uri, target)
    except CheckpointError:
        raise
    except ImportError as error:
        raise CheckpointError(f"{uri}: needs the extra 'hub': pip install 'lines-pipeline[hub]'") from error
    except Exception as error:  # any of the many ways in which networks and stores fail
        raise CheckpointError(f"{uri}: cannot be downloaded ({type(error).__name__}: {error})") from error


def _expanded(path: str) -> Path:
    """A path with ``~`` and ``~user`` filled in."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        user = printable(path.partition("/")[0])
        raise CheckpointError(
            f"{printable(path)}: '{user}' has no home folder on this machine; write './{printable(path)}' for a name "
            "that begins so, or the whole path"
        ) from error


def _scheme(uri: str) -> str | None:
    match = re.match(r"([a-z][a-z0-9+.-]*)://", uri, re.IGNORECASE)
    return match[1].lower() if match else None


def _download_target(uri: str, downloads: Path) -> Path:
    """A place by the URL's hash: names and queries may hold secrets. What an earlier version downloaded is found."""
    folder = downloads / hashlib.sha256(uri.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    last = uri.rsplit("/", 1)[-1]
    earlier = folder / re.sub(r"[^\w.-]", "_", last)[-_MAX_NAME:]
    suffix = re.search(r"(\.\w{1,15}(\.\w{1,5})?)?$", re.split(r"[?#]", last)[0])
    plain = folder / f"checkpoint{suffix[0] if suffix else ''}"
    return earlier if earlier.name.strip(".") and earlier.exists() else plain


def _fetch_hub(uri: str, target: Path) -> Path:
    """Have the Hugging Face cache fetch it, and point there."""
    link = temporary_path(target)
    os.symlink(hub.fetch(hub.parse(uri)), link)
    os.replace(link, target)
    return target


def _fetch(uri: str, target: Path) -> Path:
    import fsspec

    temporary = temporary_path(target)
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
        filesystem.get_file(path, str(temporary))
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def resolve_output(folder: Path, path: str) -> Path:
    """A file inside the output folder; ``PlanError`` for a path that leaves it."""
    root = folder.resolve()
    target = (root / path).resolve()
    if Path(path).is_absolute() or not target.is_relative_to(root) or target == root:
        raise PlanError(f"output '{path}' would lie outside the output folder {folder}; give a path inside it")
    return target
