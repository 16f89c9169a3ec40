"""Resolves paths and URLs of a recipe to local files, and outputs to files that stay in their folder."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lines_pipeline.core.errors import CheckpointError, PlanError
from lines_pipeline.core.printable import printable
from lines_pipeline.io import hub
from lines_pipeline.io.checkpoint import exists, missing_file
from lines_pipeline.io.downloads import download, download_path, is_downloaded

REMOTE_SCHEMES = ("hf", "s3", "gs", "https")


@dataclass(frozen=True)
class Location:
    """Names where a checkpoint lies; ``path`` is None while a remote one has not been downloaded."""

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
    target = download_path(uri, downloads)
    if is_downloaded(target):
        return Location(uri, target)
    return Location(uri, hub.cached(repository) if repository else None)


def local_path(location: Location, downloads: Path, tell: Callable[[str], object] = lambda text: None) -> Path:
    """Return where a checkpoint lies, fetched first if need be; see ``download``."""
    if location.path is None or location.path == download_path(location.uri, downloads):
        return download(location.uri, downloads, tell)
    return location.path


def _expanded(path: str) -> Path:
    """Return a path with ``~`` and ``~user`` filled in."""
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


def resolve_output(folder: Path, path: str) -> Path:
    """Return a file inside the output folder; ``PlanError`` for a path that leaves it."""
    root = folder.resolve()
    target = (root / path).resolve()
    if Path(path).is_absolute() or not target.is_relative_to(root) or target == root:
        raise PlanError(f"output '{path}' would lie outside the output folder {folder}; give a path inside it")
    return target
