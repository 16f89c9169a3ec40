"""Opens model folders: the weights that transformers would read, of one file or of shards, and what else lies there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.io.checkpoints import Checkpoint, SourceFile, StoredTensor
from lines_pipeline.io.formats.folders import Choice, choose_weights, other_format
from lines_pipeline.io.formats.names import is_plain_name, shown

MAX_INDEX_BYTES = 100_000_000

OpenFile = Callable[[Path], Checkpoint]


def open_folder(folder: Path, open_file: OpenFile) -> Checkpoint:
    """Open the checkpoint in a folder; ``notes`` say which of several was taken and what was left out.

    Raises ``CheckpointError`` naming the folder or index and the remedy.
    """
    chosen = weights_in(folder)
    if chosen is None:
        return _open_inner(folder, open_file)
    return _open_chosen(folder, chosen, open_file)


def weights_in(folder: Path) -> Choice | None:
    """The weights of a folder that are read, told by the names of its files."""
    try:
        return choose_weights(path.name for path in _entries(folder) if path.is_file())
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error


def is_complete(folder: Path) -> bool:
    """Whether every file of a folder's weights is there."""
    try:
        chosen = weights_in(folder)
        return chosen is not None and all(path.is_file() for path in _weight_files(folder, chosen))
    except CheckpointError:
        return False


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read ({error.strerror})") from error


def _weight_files(folder: Path, chosen: Choice) -> Iterator[Path]:
    taken = chosen.taken
    if taken.order != 1:
        yield from (folder / name for name in taken.shards or (taken.name,))
        return
    yield from (_shard(folder / taken.name, name) for name in sorted(set(_weight_map(folder / taken.name).values())))


def _open_inner(folder: Path, open_file: OpenFile) -> Checkpoint:
    """Open the transformer of a sentence-transformers folder that keeps it in a folder of its own."""
    inner = _transformer_folder(folder)
    if inner is not None and weights_in(inner) is not None:
        checkpoint = open_folder(inner, open_file)
        return replace(checkpoint, notes=(f"the weights are those of '{inner.name}/'", *checkpoint.notes))
    raise CheckpointError(f"{folder}: {_why_nothing(folder)}")


def _transformer_folder(folder: Path) -> Path | None:
    """Where the first module of a sentence-transformers folder lies; None where it is no such folder."""
    path = folder / "modules.json"
    if not path.is_file():
        return None
    modules = read_json(path)
    first = modules[0] if isinstance(modules, list) and modules else None
    name = first.get("path") if isinstance(first, Mapping) else None
    if not isinstance(name, str) or not is_plain_name(name) or not (folder / name).is_dir():
        return None
    return folder / name


def _why_nothing(folder: Path) -> str:
    """What a folder without weights is, and what to do."""
    entries = _entries(folder)
    inner = [path.name for path in entries if path.is_dir() and _holds_weights(path)]
    other = other_format(path.name for path in (*entries, *_inside(entries)))
    listed = ", ".join(f"'{name}'" for name in inner[:6])
    if "model_index.json" in {path.name for path in entries}:
        return f"a diffusers pipeline of several models; name the folder of one of them: {listed or 'none is there'}"
    if other and not inner:
        return f"the folder holds {other}"
    hint = f"; name one of the folders in it that do: {listed}" if inner else ""
    return f"the folder holds no checkpoint{hint or ' (*.safetensors, *.bin, *.pt)'}"


def _inside(entries: Iterable[Path]) -> Iterator[Path]:
    """Files one folder down."""
    for path in entries:
        if path.is_dir() and not path.name.startswith("."):
            yield from _entries(path)


def _holds_weights(folder: Path) -> bool:
    try:
        return weights_in(folder) is not None
    except CheckpointError:
        return True


def _open_chosen(folder: Path, chosen: Choice, open_file: OpenFile) -> Checkpoint:
    taken = chosen.taken
    if taken.order == 0:
        checkpoint = open_file(folder / taken.name)
    elif taken.order == 1:
        checkpoint = _open_indexed(folder / taken.name, open_file)
    else:
        checkpoint = _open_shards(folder, taken.shards, open_file)
    note = chosen.note({Path(file.path).name for file in checkpoint.files})
    notes = [note] if note else []
    return replace(checkpoint, notes=(*notes, *checkpoint.notes))


def _open_indexed(index: Path, open_file: OpenFile) -> Checkpoint:
    """Shards as an index names their tensors; what it does not name is left out, and told."""
    weight_map = _weight_map(index)
    paths = {name: _shard(index, name) for name in sorted(set(weight_map.values()))}
    shards = {name: open_file(path) for name, path in paths.items()}
    wanted: dict[str, list[str]] = {}
    for name, shard in sorted(weight_map.items()):
        if name not in shards[shard].tensors and name not in shards[shard].aliases:
            raise CheckpointError(f"{index}: tensor '{shown(name)}' should be in {shard}, which does not have it")
        wanted.setdefault(shard, []).append(name)
    parts = [_selected(shards[shard], names) for shard, names in wanted.items()]
    notes = _index_notes(index, weight_map, shards)
    return _joined(index.parent, parts, [SourceFile.of(index)], notes)


def _index_notes(index: Path, weight_map: Mapping[str, str], shards: Mapping[str, Checkpoint]) -> list[str]:
    """What the shards hold besides that which the index says."""
    held = {shard: (*checkpoint.tensors, *checkpoint.aliases) for shard, checkpoint in shards.items()}
    unnamed = [name for names in held.values() for name in names if name not in weight_map]
    doubled = [(name, shard) for shard, names in held.items() for name in names if weight_map.get(name, shard) != shard]
    notes = []
    if unnamed:
        notes.append(f"{_listed(unnamed)} left out: '{index.name}' does not name what the shards hold there")
    if doubled:
        name, shard = doubled[0]
        more = f" (and {len(doubled) - 1} more)" if len(doubled) > 1 else ""
        notes.append(
            f"tensor '{shown(name)}'{more} is in '{shard}' too; "
            f"that of '{weight_map[name]}' is read, as '{index.name}' says"
        )
    return notes


def _listed(names: list[str]) -> str:
    """``tensor 'a' is`` or ``3 tensors ('a', 'b', ...) are``."""
    if len(names) == 1:
        return f"tensor '{shown(names[0])}' is"
    first = ", ".join(f"'{shown(name)}'" for name in names[:3])
    return f"{len(names)} tensors ({first}{', ...' if len(names) > 3 else ''}) are"


def _open_shards(folder: Path, names: Iterable[str], open_file: OpenFile) -> Checkpoint:
    """A complete set of shards without an index: all that is in them."""
    shards = {name: open_file(folder / name) for name in names}
    owners: dict[str, str] = {}
    for shard, checkpoint in shards.items():
        for name in (*checkpoint.tensors, *checkpoint.aliases):
            if name in owners:
                both = f"'{owners[name]}' and '{shard}'"
                raise CheckpointError(
                    f"{folder}: tensor '{shown(name)}' is in both {both}, and no index says which to read"
                )
            owners[name] = shard
    note = f"the folder has no index: all {len(shards)} shards are read ('{next(iter(shards))}' ...)"
    return _joined(folder, shards.values(), [], [note])


def _selected(shard: Checkpoint, names: Iterable[str]) -> Checkpoint:
    """The tensors of a shard that go by ``names``; those that it ties stay one tensor."""
    tensors: dict[str, StoredTensor] = {}
    aliases: dict[str, str] = {}
    kept: dict[str, str] = {}
    for name in sorted(names, key=lambda name: name in shard.aliases):
        original = shard.aliases.get(name, name)
        if original in kept:
            aliases[name] = kept[original]
        else:
            stored, kept[original] = shard.tensors[original], name
            tensors[name] = stored if name == original else replace(stored, spec=replace(stored.spec, name=name))
    return replace(shard, tensors=tensors, aliases=aliases)


def _joined(folder: Path, parts: Iterable[Checkpoint], files: Iterable[SourceFile], notes: Iterable[str]) -> Checkpoint:
    """One checkpoint of several whose names differ."""
    parts = list(parts)
    tensors = {name: stored for part in parts for name, stored in part.tensors.items()}
    aliases = {alias: name for part in parts for alias, name in part.aliases.items()}
    told = dict.fromkeys([*notes, *(note for part in parts for note in part.notes)])
    return Checkpoint(
        str(folder),
        (*files, *(file for part in parts for file in part.files)),
        dict(sorted(tensors.items())),
        dict(sorted(aliases.items())),
        notes=tuple(told),
    )


def _weight_map(index: Path) -> dict[str, str]:
    """Shards by tensor, as an index has them."""
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, Mapping) else None
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise CheckpointError(f"{index}: not a shard index, expected JSON with a map 'weight_map'")
    for name, shard in weight_map.items():
        if not isinstance(shard, str):
            kind = type(shard).__name__
            raise CheckpointError(f"{index}: tensor '{shown(name)}' should have the name of a shard, found {kind}")
    return dict(weight_map)


def read_json(path: Path) -> Any:
    """What a JSON file beside weights holds."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_INDEX_BYTES + 1)
        if content.startswith(b"version https://git-lfs"):
            raise CheckpointError(f"{path}: a Git LFS pointer, not the file itself; run 'git lfs pull'")
        if len(content) > MAX_INDEX_BYTES:
            raise CheckpointError(f"{path}: more than {MAX_INDEX_BYTES // 10**6} MB, which no such file has")
        return json.loads(content.decode("utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({shown(str(error))}); download or save it again") from error


def _shard(index: Path, name: str) -> Path:
    """The path of a shard that an index names; it lies beside the index."""
    if not is_plain_name(name):
        raise CheckpointError(f"{index}: shard '{shown(name)}' lies outside the folder, or is no name of a file")
    path = index.parent / name
    if not path.exists():
        raise CheckpointError(
            f"{index}: shard '{shown(name)}' is missing from {index.parent}: copy or download it again"
        )
    return path
