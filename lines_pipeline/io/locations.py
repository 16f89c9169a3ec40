"""From the path a recipe names to a local file: relative paths and URLs; and outputs that stay in their folder."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from lines_pipeline.core.errors import CheckpointError, PlanError
from lines_pipeline.io.checkpoints import missing_file
from lines_pipeline.io.temporaries import temporary_path

REMOTE_SCHEMES = ("hf", "s3", "gs", "https")


@dataclass(frozen=True)
class Location:
    """Where a checkpoint lies; ``path`` is None while a remote one has not been downloaded."""

    uri: str
    path: Path | None


def locate(uri: str, folder: Path, downloads: Path) -> Location:
    """Resolve without downloading; ``folder`` is the recipe's. Raises ``CheckpointError`` for what cannot exist."""
    scheme = _scheme(uri)
    if scheme is None:
        path = folder / Path(uri).expanduser()
        if not path.exists():
            raise CheckpointError(missing_file(path))
        return Location(uri, path)
    if scheme not in REMOTE_SCHEMES:
        known = ", ".join(f"{name}://" for name in ("zoo", *REMOTE_SCHEMES))
        raise CheckpointError(f"{uri}: unknown kind of URL, expected a path or one of {known}")
    if scheme == "hf":
        parse_hub(uri)
    target = _download_target(uri, downloads)
    return Location(uri, target if target.exists() else None)


def download(uri: str, downloads: Path) -> Path:
    """Fetch a remote file (or Hugging Face model folder) into ``downloads``, once. Raises ``CheckpointError``."""
    target = _download_target(uri, downloads)
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _fetch_hub(uri, target) if _scheme(uri) == "hf" else _fetch(uri, target)
    except ImportError as error:
        raise CheckpointError(f"{uri}: needs the extra 'hub': pip install 'lines-pipeline[hub]'") from error
    except Exception as error:  # any of the many ways in which networks and stores fail
        raise CheckpointError(f"{uri}: cannot be downloaded ({type(error).__name__}: {error})") from error


def parse_hub(uri: str) -> tuple[str, str, str | None, str]:
    """Kind of repository, its name, revision and file of ``hf://[datasets/]org/repo[@revision][/file]``."""
    match = re.fullmatch(r"hf://(datasets/)?([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/(.+))?", uri)
    if not match:
        raise CheckpointError(f"{uri}: expected hf://org/repo[@revision][/file]")
    return "dataset" if match[1] else "model", match[2], match[3], match[4] or ""


def _scheme(uri: str) -> str | None:
    match = re.match(r"([a-z][a-z0-9+.-]*)://", uri, re.IGNORECASE)
    return match[1].lower() if match else None


def _download_target(uri: str, downloads: Path) -> Path:
    """A place by the URL's hash: names and queries may hold secrets. What an earlier version downloaded is found."""
    folder, last = downloads / hashlib.sha256(uri.encode()).hexdigest()[:16], uri.rsplit("/", 1)[-1]
    earlier = folder / re.sub(r"[^\w.-]", "_", last)
    suffix = re.search(r"(\.\w{1,15}(\.\w{1,5})?)?$", re.split(r"[?#]", last)[0])
    return earlier if earlier.exists() else folder / f"checkpoint{suffix[0] if suffix else ''}"


def _fetch_hub(uri: str, target: Path) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download

    kind, repository, revision, file = parse_hub(uri)
    if file:
        found = hf_hub_download(repository, file, revision=revision, repo_type=kind)
    else:
        patterns = ["*.safetensors", "*.safetensors.index.json", "config.json"]
        found = snapshot_download(repository, revision=revision, repo_type=kind, allow_patterns=patterns)
    os.symlink(found, target)
    return target


def _fetch(uri: str, target: Path) -> Path:
    import fsspec

    temporary = temporary_path(target)
    filesystem, path = fsspec.core.url_to_fs(uri)
    filesystem.get_file(path, str(temporary))
    os.replace(temporary, target)
    return target


def resolve_output(folder: Path, path: str) -> Path:
    """A file inside the output folder; ``PlanError`` for a path that leaves it."""
    root = folder.resolve()
    target = (root / path).resolve()
    if Path(path).is_absolute() or not target.is_relative_to(root) or target == root:
        raise PlanError(f"output '{path}' would lie outside the output folder {folder}; give a path inside it")
    return target
