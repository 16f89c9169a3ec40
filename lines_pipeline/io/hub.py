"""Fetches files and folders of the Hugging Face hub: finds what its cache holds, and what a model folder needs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.printable import printable
from lines_pipeline.io.model_folders import is_complete
from lines_pipeline.io.weight_files import choose_weights, list_weights

_FILES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".json")
"""Endings of files of a repository; any other path is a folder of it."""
_SETTINGS = ("*.json", "*.jinja", "*.txt", "*.model", "*.spm", "*.tiktoken", "*.md", "*.yaml", "LICENSE*", "NOTICE*")
"""Files that belong to a model folder besides weights: configuration, tokenizer, templates, modules, licences."""
_OTHER_RUNTIMES = ("onnx", "openvino", "coreml", "flax", "tf", "gguf")
_CHECKSUMS = {64: "sha256", 40: "sha1"}
"""Hashes by the number of hex digits in a name of the Hugging Face cache."""
_PIECE_BYTES = 2**20
_MODULE = re.compile(r"\d+_\w+", re.ASCII)
"""Matches a folder of a sentence-transformers module."""


@dataclass(frozen=True)
class HubPath:
    """Names a file, a folder or (``path`` empty) the whole of a repository."""

    uri: str
    kind: str
    repository: str
    revision: str | None
    path: str

    @property
    def is_file(self) -> bool:
        """Return whether the path is one file."""
        return self.path.endswith(_FILES)


def parse(uri: str) -> HubPath:
    """Parse ``hf://[datasets/]org/repo[@revision][/path]``; ``CheckpointError`` for anything else."""
    match = re.fullmatch(
        r"hf://(datasets/)?([\w.-]+/[\w.-]+)(?:@(refs/pr/\d+|[^/]+))?(?:/(.+?))?/?", uri, re.IGNORECASE
    )
    path = (match[4] or "") if match else ""
    parts = [*match[2].split("/"), *(match[3] or "main").split("/")] if match else [""]
    if not match or {"", ".", ".."} & {*parts, *(path.split("/") if path else ())} or not uri.isprintable():
        raise CheckpointError(f"{printable(uri)}: expected hf://org/repo[@revision][/file or folder]")
    return HubPath(uri, "dataset" if match[1] else "model", match[2], match[3], path)


def cached(place: HubPath) -> Path | None:
    """Return where the Hugging Face cache holds a place whole, without the network; None where it does not."""
    try:
        from huggingface_hub import snapshot_download, try_to_load_from_cache
    except ImportError:
        return None
    options = {"revision": place.revision, "repo_type": place.kind}
    try:
        if place.is_file:
            file = try_to_load_from_cache(place.repository, place.path, **options)
            return Path(file) if isinstance(file, str) else None
        folder = Path(snapshot_download(place.repository, local_files_only=True, **options)) / place.path
    except (OSError, ValueError):  # not in the cache, or no name of a repository
        return None
    return folder if folder.is_dir() and is_complete(folder) else None


def fetch(place: HubPath) -> Path:
    """Download a file, or what is needed of a model folder, into the Hugging Face cache; return where it lies there."""
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    if place.is_file:
        return Path(hf_hub_download(place.repository, place.path, revision=place.revision, repo_type=place.kind))
    names = HfApi().list_repo_files(place.repository, revision=place.revision, repo_type=place.kind)
    needed = needed_files(names, place.path)
    if not needed:
        raise CheckpointError(f"{place.uri}: the repository has no files in '{place.path or '/'}'")
    snapshot = snapshot_download(
        place.repository, revision=place.revision, repo_type=place.kind, allow_patterns=[_literal(n) for n in needed]
    )
    return Path(snapshot) / place.path


def has_checksum_of_name(path: Path) -> bool:
    """Return whether a file of the Hugging Face cache is as the hub has it; True where the cache has no checksum.

    The cache names contents by it: SHA-256 of large files, and the SHA-1 that git gives of small ones.
    """
    content = path.resolve()
    if content.parent.name != "blobs" or not (kind := _CHECKSUMS.get(len(content.name))):
        return True
    digest = hashlib.new(kind, usedforsecurity=False)
    if kind == "sha1":
        digest.update(f"blob {content.stat().st_size}\0".encode())
    with content.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest() == content.name


def forget(files: Iterable[Path]) -> None:
    """Remove damaged files from the Hugging Face cache, so that it fetches them again."""
    for file in files:
        with suppress(OSError):  # it is gone already
            file.resolve().unlink()
            file.unlink(missing_ok=True)


def needed_files(names: Iterable[str], folder: str = "") -> list[str]:
    """Return those of a repository's files that a model folder needs: the weights to read, and all small files."""
    prefix = f"{folder}/" if folder else ""
    inside = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    needed = {name for name in inside if _is_setting(name)}
    for place in {"", *(name.partition("/")[0] for name in inside if _MODULE.fullmatch(name.partition("/")[0]))}:
        of_place = [name.removeprefix(f"{place}/") for name in inside if not place or name.startswith(f"{place}/")]
        needed |= {_inside(place, name) for name in _weights([name for name in of_place if "/" not in name])}
    return sorted(prefix + name for name in needed)


def _weights(names: list[str]) -> list[str]:
    """Return the weights of a folder that are read: a file, or an index and what may be its shards."""
    try:
        chosen = choose_weights(names)
    except CheckpointError:  # which opening the folder tells
        return [weights.name for weights in list_weights(names)]
    if chosen is None:
        return []
    taken = chosen.taken
    if taken.order == 1:
        return [taken.name, *(name for name in names if name.endswith(f".{taken.suffix}") and "-of-" in name)]
    return [*(taken.shards or (taken.name,))]


def _is_setting(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part.lower() in _OTHER_RUNTIMES for part in path.parts[:-1])
    is_index = name.endswith(".index.json")
    return not hidden and not is_index and any(fnmatch(path.name, pattern) for pattern in _SETTINGS)


def _inside(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _literal(name: str) -> str:
    """Return a pattern that matches this name alone."""
    return re.sub(r"([*?[])", r"[\1]", name)
