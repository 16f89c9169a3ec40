"""Fetches files that a recipe names by URL, once: checks them on arrival, and their digests before every use."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.logs import LOG
from lines_pipeline.io import hub
from lines_pipeline.io.entries import read_entry, write_entry
from lines_pipeline.io.temporaries import temporary_path
from lines_pipeline.io.write_once import noted_once

_MAX_NAME = 120
_ATTEMPTS = 2
Noted = Mapping[str, Any]
"""Size and digest of each file of a download, by its path in it (empty: the download is one file)."""


def download_path(uri: str, downloads: Path) -> Path:
    """Return a path by the URL's hash: names and queries may hold secrets. Finds downloads of earlier versions."""
    folder = downloads / hashlib.sha256(uri.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    last = uri.rsplit("/", 1)[-1]
    earlier = folder / re.sub(r"[^\w.-]", "_", last)[-_MAX_NAME:]
    suffix = re.search(r"(\.\w{1,15}(\.\w{1,5})?)?$", re.split(r"[?#]", last)[0])
    plain = folder / f"checkpoint{suffix[0] if suffix else ''}"
    return earlier if earlier.name.strip(".") and earlier.exists() else plain


def is_downloaded(path: Path) -> bool:
    """Return whether a download and the note of its digests are there; ``download`` checks its content."""
    return path.exists() and _notes(path).is_file()


def download(uri: str, downloads: Path, tell: Callable[[str], object] = lambda text: None) -> Path:
    """Fetch a remote file (or Hugging Face model folder) into ``downloads``, unless it is there as it arrived.

    It is read once a process to see that. What differs, or has no note of its digests, is fetched again; ``tell`` then
    gets a note. Raises ``CheckpointError``.
    """
    path = download_path(uri, downloads)
    was_there, notes = path.exists(), read_entry(_notes(path))
    damaged = [name for name in notes or () if noted_once(path / name) != notes[name]]
    if was_there and notes and not damaged:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        LOG.info("fetching '%s'", uri)
        fetched = _fetch_hub(uri, path, damaged) if uri.lower().startswith("hf://") else _fetch(uri, path)
    except CheckpointError:
        raise
    except ImportError as error:
        raise CheckpointError(f"{uri}: needs the extra 'hub': pip install 'lines-pipeline[hub]'") from error
    except Exception as error:  # any of the many ways in which networks and stores fail
        reason = f"{_damage(notes)}, and " if was_there else ""
        raise CheckpointError(f"{uri}: {reason}cannot be downloaded ({type(error).__name__}: {error})") from error
    arrived_notes = _noted(fetched)
    write_entry(_notes(path), arrived_notes)
    if was_there:
        change = ", and has other contents now" if notes and notes != arrived_notes else ""
        tell(f"{uri}: {_damage(notes)}; it was fetched again{change}")
    return fetched


def _damage(notes: Noted | None) -> str:
    return f"what the cache holds of it {'is damaged' if notes else 'has no digest to check it by'}"


def _notes(path: Path) -> Path:
    return path.with_name(f"{path.name}.digests.json")


def _noted(path: Path) -> Noted:
    return {name: noted_once(path / name) for name in _names(path)}


def _names(path: Path) -> Iterable[str]:
    """Return the files of a download that may be read."""
    if not path.is_dir():
        return [""]
    return hub.needed_files(file.relative_to(path).as_posix() for file in sorted(path.rglob("*")) if file.is_file())


def _fetch_hub(uri: str, target: Path, damaged: Iterable[str]) -> Path:
    """Have the Hugging Face cache fetch it, and point there."""
    hub.forget([target / name for name in damaged])
    for _ in range(_ATTEMPTS):
        snapshot = hub.fetch(hub.parse(uri))
        wrong = [snapshot / name for name in _names(snapshot) if not hub.has_checksum_of_name(snapshot / name)]
        if not wrong:
            break
        hub.forget(wrong)
    else:
        raise CheckpointError(f"{uri}: {wrong[0].name} does not have the checksum that the hub gives of it; try again")
    link = temporary_path(target)
    os.symlink(snapshot, link)
    os.replace(link, target)
    return target


def _fetch(uri: str, target: Path) -> Path:
    """Fetch one file; once more where it arrives otherwise than the store describes it."""
    import fsspec

    temporary, arrived = temporary_path(target), set[str]()
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
        for _ in range(_ATTEMPTS):
            filesystem.invalidate_cache()
            described = filesystem.info(path)
            filesystem.get_file(path, str(temporary))
            md5, size = _md5(temporary), temporary.stat().st_size
            wrong = _differences(described, size, md5)
            if not wrong and (md5 in arrived or _etag(uri, described) in (None, md5)):
                break
            arrived.add(md5)
        else:
            difference = wrong or "its bytes differ from one download to the next"
            raise CheckpointError(f"{uri}: does not arrive as the store describes it ({difference}); try again")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _differences(described: Mapping[str, Any], size: int, md5: str) -> str:
    """Return how a file is other than the store says; empty where it is not, or the store says nothing of it."""
    expected = described.get("size")
    if expected is not None and expected != size:
        return f"{size:,} bytes, expected {expected:,}"
    encoded = described.get("md5Hash") or described.get("Content-MD5")
    known = base64.b64decode(encoded).hex() if encoded else md5
    return "" if known == md5 else f"MD5 {md5}, expected {known}"


def _etag(uri: str, described: Mapping[str, Any]) -> str | None:
    """Return the ETag where it may be an MD5: in S3, of what was sent in one piece and is not encrypted by KMS.

    Nothing tells of the latter: of a file that has another MD5, two downloads are compared.
    """
    etag = str(described.get("ETag", "")).strip('"')
    return etag if uri.lower().startswith("s3://") and re.fullmatch(r"[0-9a-f]{32}", etag) else None


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
