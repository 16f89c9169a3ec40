"""Opens model folders: the weights that transformers would read, of one file or of shards, and what else lies there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.printable import listed, printable
from lines_pipeline.io.checkpoint import Checkpoint, SourceFile, StoredTensor
from lines_pipeline.io.formats.foreign import other_format
from lines_pipeline.io.formats.names import is_plain_name
from lines_pipeline.io.json_files import read_json, read_json_or_none, read_modules
from lines_pipeline.io.weight_files import Choice, choose_weights

OpenFile = Callable[[Path], Checkpoint]


def open_folder(folder: Path, open_file: OpenFile) -> Checkpoint:
    """Open the checkpoint in a folder; ``notes`` say which of several was taken and what was left out.

    Raises ``CheckpointError`` naming the folder or index and the remedy.
    """
    if (folder / "model_index.json").is_file():
        raise CheckpointError(f"{folder}: {_pipeline(folder)}")
    chosen = weights_in(folder)
    modules = _modules(folder)
    if chosen is not None:
        checkpoint = _open_chosen(folder, chosen, open_file)
    elif modules and weights_in(modules[0]) is not None:
        checkpoint = open_folder(modules.pop(0), open_file)
    else:
        raise CheckpointError(f"{folder}: {_why_nothing(folder)}")
    others = [f"'{module.name}/'" for module in modules if _holds_weights(module)]
    notes = [f"the weights in {', '.join(others)} are modules of their own and are not read"] if others else []
    return replace(checkpoint, notes=(*checkpoint.notes, *notes))


def weights_in(folder: Path) -> Choice | None:
    """Return the weights of a folder that are read, told by the names of its files."""
    try:
        return choose_weights(path.name for path in _entries(folder) if path.exists() and not path.is_dir())
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error


def is_complete(folder: Path) -> bool:
    """Return whether every file of a folder's weights is there."""
    try:
        chosen = weights_in(folder)
        if chosen is None:
            return any(is_complete(module) for module in _modules(folder)[:1])
        return all(path.is_file() for path in _weight_files(folder, chosen))
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


def _modules(folder: Path) -> list[Path]:
    """Return the folders of a sentence-transformers folder's modules, the transformer first; none for others."""
    return [folder / name for name in read_modules(folder) if (folder / name).is_dir()]


def declared_quantization(path: Path) -> str:
    """Return the quantisation scheme that ``config.json`` beside the weights names; empty where it names none."""
    config = (path if path.is_dir() else path.parent) / "config.json"
    content = read_json_or_none(config)
    settings = content.get("quantization_config", content.get("quantization")) if isinstance(content, Mapping) else None
    if not isinstance(settings, Mapping):
        return ""
    return printable(str(settings.get("quant_method", "a scheme of its own")), 40)


def _pipeline(folder: Path) -> str:
    """Return the message for a diffusers pipeline: the folders to name instead."""
    inner = _weight_folders(folder)
    listed = ", ".join(inner) or "none is there"
    return f"a diffusers pipeline of several models; name the folder of one of them: {listed}"


def _weight_folders(folder: Path) -> list[str]:
    return [f"'{path.name}'" for path in _entries(folder) if path.is_dir() and _holds_weights(path)][:6]


def _why_nothing(folder: Path) -> str:
    """Return what a folder without weights is, and what to do."""
    entries, inner = _entries(folder), _weight_folders(folder)
    if inner:
        return f"the folder holds no checkpoint; name one of the folders in it that do: {', '.join(inner)}"
    foreign = other_format(path.name for path in (*entries, *_inside(entries)))
    return f"the folder holds {foreign or 'no checkpoint (*.safetensors, *.bin, *.pt)'}"


def _inside(entries: Iterable[Path]) -> Iterator[Path]:
    """Return the files one folder down."""
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
    """Open shards as an index names their tensors; leave out, and tell, what it does not name."""
    weight_map = _weight_map(index)
    paths = {name: _shard(index, name) for name in sorted(set(weight_map.values()))}
    shards = {name: open_file(path) for name, path in paths.items()}
    names_by_shard: dict[str, list[str]] = {}
    for name, shard in sorted(weight_map.items()):
        if not any(name in names for names in (shards[shard].tensors, shards[shard].aliases, shards[shard].unreadable)):
            raise CheckpointError(f"{index}: tensor '{printable(name)}' should be in {shard}, which does not have it")
        names_by_shard.setdefault(shard, []).append(name)
    parts = [_selected(shards[shard], names) for shard, names in names_by_shard.items()]
    notes = _index_notes(index, weight_map, shards)
    return _joined(index.parent, parts, [SourceFile.of(index)], notes)


def _index_notes(index: Path, weight_map: Mapping[str, str], shards: Mapping[str, Checkpoint]) -> list[str]:
    """Return messages on what the shards hold and the index does not name."""
    held = {shard: (*checkpoint.tensors, *checkpoint.aliases) for shard, checkpoint in shards.items()}
    unnamed = [name for names in held.values() for name in names if name not in weight_map]
    doubled = [(name, shard) for shard, names in held.items() for name in names if weight_map.get(name, shard) != shard]
    notes = []
    if unnamed:
        notes.append(f"{_tensors_are(unnamed)} left out: '{index.name}' does not name what the shards hold there")
    if doubled:
        name, shard = doubled[0]
        also = f" (and {len(doubled) - 1} more)" if len(doubled) > 1 else ""
        notes.append(
            f"tensor '{printable(name)}'{also} is in '{shard}' too; "
            f"that of '{weight_map[name]}' is read, as '{index.name}' says"
        )
    return notes


def _tensors_are(names: list[str]) -> str:
    """Return ``tensor 'a' is`` or ``3 tensors ('a', 'b', 'c') are``."""
    return f"tensor {listed(names)} is" if len(names) == 1 else f"{len(names)} tensors ({listed(names)}) are"


def _open_shards(folder: Path, names: Iterable[str], open_file: OpenFile) -> Checkpoint:
    """Open a complete set of shards without an index: all tensors in them."""
    shards = {name: open_file(folder / name) for name in names}
    owners: dict[str, str] = {}
    for shard, checkpoint in shards.items():
        for name in (*checkpoint.tensors, *checkpoint.aliases):
            if name in owners:
                both = f"'{owners[name]}' and '{shard}'"
                raise CheckpointError(
                    f"{folder}: tensor '{printable(name)}' is in both {both}, and no index says which to read"
                )
            owners[name] = shard
    note = f"the folder has no index: all {len(shards)} shards are read ('{next(iter(shards))}' ...)"
    return _joined(folder, shards.values(), [], [note])


def _selected(shard: Checkpoint, names: Collection[str]) -> Checkpoint:
    """Return the tensors of a shard that go by ``names``; those that it ties stay one tensor."""
    tensors: dict[str, StoredTensor] = {}
    aliases: dict[str, str] = {}
    kept: dict[str, str] = {}
    for name in sorted(names, key=lambda name: name in shard.aliases):
        if name in shard.unreadable:
            continue
        original = shard.aliases.get(name, name)
        if original in kept:
            aliases[name] = kept[original]
        else:
            stored, kept[original] = shard.tensors[original], name
            tensors[name] = stored if name == original else replace(stored, spec=replace(stored.spec, name=name))
    unreadable = {name: why for name, why in shard.unreadable.items() if name in names}
    return replace(shard, tensors=tensors, aliases=aliases, unreadable=unreadable)


def _joined(folder: Path, parts: Iterable[Checkpoint], files: Iterable[SourceFile], notes: Iterable[str]) -> Checkpoint:
    """Return one checkpoint of several whose names differ."""
    parts = list(parts)
    tensors = {name: stored for part in parts for name, stored in part.tensors.items()}
    aliases = {alias: name for part in parts for alias, name in part.aliases.items()}
    all_notes = dict.fromkeys([*notes, *(note for part in parts for note in part.notes)])
    return Checkpoint(
        str(folder),
        (*files, *(file for part in parts for file in part.files)),
        dict(sorted(tensors.items())),
        dict(sorted(aliases.items())),
        next((part.metadata for part in parts if part.metadata), {}),
        tuple(all_notes),
        unreadable={name: why for part in parts for name, why in part.unreadable.items()},
        part=next((part.part for part in parts), ""),
    )


def _weight_map(index: Path) -> dict[str, str]:
    """Return the shards by tensor, as an index has them."""
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, Mapping) else None
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise CheckpointError(f"{index}: not a shard index, expected JSON with a map 'weight_map'")
    for name, shard in weight_map.items():
        if not isinstance(shard, str):
            kind = type(shard).__name__
            raise CheckpointError(f"{index}: tensor '{printable(name)}' should have the name of a shard, found {kind}")
    return dict(weight_map)


def _shard(index: Path, name: str) -> Path:
    """Return the path of a shard that an index names; it lies beside the index."""
    if not is_plain_name(name):
        raise CheckpointError(f"{index}: shard '{printable(name)}' lies outside the folder, or is no name of a file")
    path = index.parent / name
    if not path.exists():
        raise CheckpointError(
            f"{index}: shard '{printable(name)}' is missing from {index.parent}: copy or download it again"
        )
    return path
