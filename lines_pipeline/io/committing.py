"""Gives complete files their names, in an order in which a reader finds the old checkpoint, none, or the new one.

A checkpoint is one file, or shards that count from the moment when their index is there; a model folder counts from
the moment when its weights do. Whoever dies on the way leaves no mixture: what makes the old checkpoint readable goes
first, what makes the new one readable comes last.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath

from lines_pipeline.io.companions import MANIFEST
from lines_pipeline.io.entries import write_atomically
from lines_pipeline.io.formats.safetensors import MAX_HEADER_BYTES
from lines_pipeline.io.json_files import read_json_or_none
from lines_pipeline.io.temporaries import temporary_path
from lines_pipeline.io.writing import OutputLayout, cannot_write, complete_files, index_content

_SHARD_NUMBERS = re.compile(r"-\d{5}-of-\d{5}")
_WEIGHTS = re.compile(r".+\.safetensors(\.index\.json)?")


def commit_files(layout: OutputLayout, metadata: Mapping[str, str]) -> None:
    """Complete a checkpoint's files and put them in the place of what an earlier run wrote under the same path."""
    complete_files(layout, metadata)
    with _told(layout), _locked(layout.path.parent):
        if layout.index is None:
            _rename(layout)
            _remove(_leftovers(layout))
        else:
            _remove(_leftovers(layout))
            _rename(layout)
            _remove([layout.path])


def commit_folder(
    layout: OutputLayout, metadata: Mapping[str, str], folder: Path, companions: Mapping[str, Path | bytes]
) -> None:
    """Commit, as ``commit_files`` does, the weights and other files of a model folder: contents, or files to copy.

    Files that an earlier run wrote into the folder and this one does not go as well.
    """
    complete_files(layout, metadata)
    weights = [path.relative_to(folder).as_posix() for path in layout.written]
    names = sorted({*companions, *weights, MANIFEST})
    with _told(layout), _locked(folder), ExitStack() as cleanup:
        waiting = {name: _copied(folder / name, companions[name], cleanup) for name in sorted(companions)}
        earlier = _listed(folder)
        _list(folder, {*names, *earlier})
        readable = [folder / name for name in earlier if _WEIGHTS.fullmatch(name)]
        _remove([*readable, *_leftovers(layout), layout.path])
        _remove(folder / name for name in earlier if name not in names)
        for name, temporary in waiting.items():
            os.replace(temporary, folder / name)
        for place in {path.parent for path in (*layout.written, *(folder / name for name in companions))}:
            _sync(place)
        _rename(layout)
        _list(folder, names)


def shard_pattern(path: Path) -> re.Pattern[str]:
    """Return a pattern of the names that shards of a checkpoint at ``path`` have."""
    return re.compile(re.escape(path.stem) + _SHARD_NUMBERS.pattern + re.escape(path.suffix))


def earlier_files(folder: Path) -> list[Path]:
    """List the files of a model folder that an earlier run wrote: ``commit_folder`` replaces or removes them."""
    return [folder / name for name in _listed(folder)]


def index_path(path: Path) -> Path:
    """Return the path of the index of a sharded checkpoint at ``path``."""
    return path.with_name(f"{path.name}.index.json")


@contextmanager
def _told(layout: OutputLayout) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(layout, error) from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other runs from naming files in a folder meanwhile, where its file system has locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _leftovers(layout: OutputLayout) -> list[Path]:
    """List the index and the shards of the checkpoint's name that are to go: a run wrote them, or this one does.

    An index goes where all shards that it names go.
    """
    pattern, named = shard_pattern(layout.path), set(layout.written)
    shards = [path for path in sorted(layout.path.parent.iterdir()) if pattern.fullmatch(path.name)]
    ours = [path for path in shards if path in named or is_ours(partial(_read, path))]
    index = index_path(layout.path)
    of_ours = index == layout.index or (index.exists() and _indexed(index) <= {path.name for path in ours})
    return ([index] if of_ours else []) + ours


def is_ours(read: Callable[[int, int], bytes]) -> bool:
    """Return whether a run wrote the safetensors file of which ``read`` gives the bytes from one offset to another."""
    try:
        length = int.from_bytes(read(0, 8), "little")
        header = json.loads(read(8, 8 + length)) if length <= MAX_HEADER_BYTES else {}
        return "recipe_hash" in header["__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _read(path: Path, start: int, end: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)


def _indexed(index: Path) -> set[str]:
    """Return the shards that an index names; its own name where it is none."""
    content = read_json_or_none(index)
    named = content.get("weight_map") if isinstance(content, dict) else None
    return {str(name) for name in named.values()} if isinstance(named, dict) else {index.name}


def _remove(paths: Iterable[Path]) -> None:
    """Remove files, indices before shards and single files; durable in this order."""
    for path in sorted(dict.fromkeys(paths), key=lambda path: not path.name.endswith(".index.json")):
        if path.is_symlink() or path.is_file():
            path.unlink(missing_ok=True)
            _sync(path.parent)


def _rename(layout: OutputLayout) -> None:
    """Give the files their names, then the index."""
    for file in layout.files:
        os.replace(file.temporary, file.path)
    _sync(layout.path.parent)
    if layout.index:
        write_atomically(layout.index, index_content(layout))
        _sync(layout.index)
        _sync(layout.path.parent)


def _copied(target: Path, content: Path | bytes, cleanup: ExitStack) -> Path:
    """Return a complete and durable temporary file beside its target."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(target)
    cleanup.callback(temporary.unlink, missing_ok=True)
    if isinstance(content, bytes):
        temporary.write_bytes(content)
    else:
        shutil.copyfile(content, temporary)
    _sync(temporary)
    return temporary


def _listed(folder: Path) -> list[str]:
    """Return the files of a model folder that an earlier run wrote, as far as they lie in it."""
    manifest, root = folder / MANIFEST, folder.resolve()
    names = listed_files(manifest.read_bytes()) if manifest.is_file() else []
    return [name for name in names if (root / name).parent.resolve().is_relative_to(root)]


def listed_files(manifest: bytes) -> list[str]:
    """Return the names in the list of a model folder's files, without such as would lie elsewhere."""
    try:
        names = json.loads(manifest)["files"]
        paths = [PurePosixPath(name) for name in names if isinstance(name, str) and "\0" not in name]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
    return [str(path) for path in paths if path.parts and not path.is_absolute() and ".." not in path.parts]


def _list(folder: Path, names: Iterable[str]) -> None:
    content = json.dumps({"files": sorted(names)}, indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / MANIFEST, content.encode())


def _sync(path: Path) -> None:
    """Make a file's content, or a folder's names, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
