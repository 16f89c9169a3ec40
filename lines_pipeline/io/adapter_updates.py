"""Makes an adapter's update a checkpoint: scaling * B @ A under the base's names, zero elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path

import torch

from lines_pipeline.core.errors import CheckpointError, did_you_mean
from lines_pipeline.core.fingerprints import content_key
from lines_pipeline.core.printable import exact_glob, listed, printable
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.threads import one_thread
from lines_pipeline.io.checkpoint import Checkpoint, SourceFile, StoredTensor
from lines_pipeline.io.formats.adapters import ADAPTER_CONFIG, Adapter, Factors
from lines_pipeline.io.reading import BlockReader
from lines_pipeline.io.spool import spool_path, spooled

VERSION = 1
"""Raise it when updates change: those that earlier versions made are then not used."""
ROWS_NUMEL = 2**22
"""The number of values of an update that are computed at once."""
_MAX_PREFIXES = 100


@dataclass(frozen=True)
class Base:
    """Describes the model that an adapter is for: its tensors, and where their values are, if it is read from files."""

    origin: str
    specs: Mapping[str, TensorSpec]
    aliases: Mapping[str, str] = field(default_factory=dict)
    stored: Mapping[str, StoredTensor] | None = None
    files: tuple[SourceFile, ...] = ()


@dataclass(frozen=True)
class Update:
    """Describes how one tensor changes: by ``factors`` or an added ``bias``, or by taking the values of ``whole``."""

    name: str
    shape: tuple[int, ...]
    factors: Factors | None = None
    transposed: bool = False
    bias: tuple[StoredTensor, float] | None = None
    whole: StoredTensor | None = None
    base: StoredTensor | None = None
    """The base's values, where the update depends on them."""

    @property
    def needs_base(self) -> bool:
        """Return whether the update is a difference from the base's values."""
        return self.whole is not None or (self.factors is not None and self.factors.magnitude is not None)


def update_checkpoint(
    adapter: Adapter,
    base: Base | None,
    *,
    scale: float,
    left_out: Callable[[Mapping[str, Sequence[str]]], frozenset[str]],
    spool: Path,
    build: bool,
) -> Checkpoint:
    """Return the update of an adapter as float32 tensors, computed once into the folder ``spool``.

    Where it is not to ``build``, only the header is told, at offset -1, and how much is still to be written. With a
    ``base`` the tensors are the base's floating-point ones, else those alone that the adapter names; ``left_out`` says
    of all names by tensor which tensors are in no result.
    Raises ``CheckpointError`` for modules that the base lacks or has in other shapes, and where its values are needed.
    """
    updates = _bound(adapter, base)
    names = [name for name, spec in base.specs.items() if spec.is_floating] if base else list(updates)
    skipped = left_out(_all_names(names, base))
    kept = {name: update for name, update in updates.items() if name not in skipped}
    for update in kept.values():
        _require_values(adapter, base, update)
    shapes = {name: base.specs[name].shape for name in names} if base else {n: u.shape for n, u in kept.items()}
    specs = {name: TensorSpec(name, "float32", shapes[name]) for name in sorted(shapes) if name not in skipped}
    files = adapter.files + (base.files if base and any(update.needs_base for update in kept.values()) else ())
    aliases, gone = base.aliases if base else {}, tuple(name for name in names if name in skipped)
    checkpoint = Checkpoint(adapter.uri, files, {}, aliases, notes=adapter.notes, left_out=gone)
    return _stored(checkpoint, kept, specs, scale, spool, build=build)


def _all_names(names: Sequence[str], base: Base | None) -> dict[str, list[str]]:
    """Return all names of each tensor, which has several where the base ties it."""
    all_names = {name: [name] for name in names}
    for alias, name in base.aliases.items() if base else ():
        if name in all_names:
            all_names[name].append(alias)
    return all_names


def _stored(
    checkpoint: Checkpoint,
    updates: Mapping[str, Update],
    specs: Mapping[str, TensorSpec],
    scale: float,
    spool: Path,
    *,
    build: bool,
) -> Checkpoint:
    """Return the update with the places of its tensors, if it is built: all that are zero share one."""
    identity = [list(astuple(file)) for file in checkpoint.files]
    described = [[u.name, u.shape, u.transposed, _scaling(u), _places(u)] for u in updates.values()]
    zeros = max((spec.numel for name, spec in specs.items() if name not in updates), default=0)
    key = content_key([VERSION, identity, described, scale, zeros])
    changed = [specs[name] for name in updates]
    if not build:
        pending = 0 if spool_path(spool, key).exists() else sum(spec.nbytes for spec in changed)
        tensors = {name: StoredTensor(spec, checkpoint.files[0].path, -1) for name, spec in specs.items()}
        return replace(checkpoint, tensors=tensors, pending_bytes=pending)
    path, offsets, end = spooled(spool, key, changed, zeros, lambda: _values(updates.values(), scale))
    tensors = {name: StoredTensor(spec, str(path), offsets.get(name, end)) for name, spec in specs.items()}
    return replace(checkpoint, tensors=tensors, files=(*checkpoint.files, SourceFile.of(path)))


def _scaling(update: Update) -> list[float]:
    own = [update.factors.scaling] if update.factors else []
    return own + ([update.bias[1]] if update.bias else [])


def _places(update: Update) -> list[list[object]]:
    """Return the places of all that an update is computed from."""
    factors = update.factors
    parts = [factors.a, factors.b, factors.magnitude] if factors else []
    parts += [update.bias[0] if update.bias else None, update.whole, update.base if update.needs_base else None]
    return [[part.path, part.offset, part.spec.dtype] if part else [] for part in parts]


def _bound(adapter: Adapter, base: Base | None) -> dict[str, Update]:
    """Return updates by the base's names, in their order."""
    own_names = list(dict.fromkeys([*adapter.factors, *adapter.biases, *adapter.whole]))
    if not own_names:
        raise CheckpointError(f"{adapter.uri}: the adapter changes no tensor")
    names = _base_names(adapter, base) if base else {name: name for name in own_names}
    updates: dict[str, Update] = {}
    for own_name in own_names:
        name = names.get(own_name, own_name)
        if name in updates:
            raise CheckpointError(
                f"{adapter.uri}: two of its modules change '{printable(name)}', which is one tensor in the base"
            )
        factors, bias, whole = adapter.factors.get(own_name), adapter.biases.get(own_name), adapter.whole.get(own_name)
        stored = base.stored.get(name) if base and base.stored else None
        update = Update(name, (), factors, adapter.transposed, bias, whole, stored)
        updates[name] = _shaped(adapter, update, base.specs.get(name) if base else None)
    return dict(sorted(updates.items()))


def _shaped(adapter: Adapter, update: Update, spec: TensorSpec | None) -> Update:
    """Return the update with the shape that its parts give, checked against the base's tensor."""
    expected = spec.shape if spec else None
    if spec is not None and not spec.is_floating:
        raise CheckpointError(
            f"{adapter.uri}: the base's '{printable(update.name)}' is {spec.dtype}, which nothing can be added to"
        )
    shapes: list[tuple[tuple[int, ...], bool]] = []
    if update.factors:
        straight = _product_shape(update.factors)
        may_turn = len(straight) == 2 and not update.factors.embedding
        turns = [update.transposed, not update.transposed] if expected else [update.transposed]
        shapes = [(straight[::-1] if turn else straight, turn) for turn in (turns if may_turn else [False])]
    else:
        part = update.whole or (update.bias[0] if update.bias else None)
        shapes = [(part.spec.shape, False)] if part else []
    fitting = next(((shape, turn) for shape, turn in shapes if expected in (None, shape)), None)
    part_shapes = [
        other_part.spec.shape
        for other_part in (update.whole, update.bias[0] if update.bias else None)
        if other_part is not None
    ]
    if fitting is None or any(shape != fitting[0] for shape in part_shapes):
        odd_shape = next((shape for shape in part_shapes if shape != expected), shapes[0][0])
        raise CheckpointError(
            f"{adapter.uri}: the update of '{printable(update.name)}' has shape {list(odd_shape)}, the base's tensor "
            f"{list(expected or odd_shape)}: the adapter was made for another model"
        )
    return replace(update, shape=fitting[0], transposed=fitting[1])


def _product_shape(factors: Factors) -> tuple[int, ...]:
    a, b = factors.a.spec.shape, factors.b.spec.shape
    return (a[1], b[0]) if factors.embedding else (b[0], *a[1:])


def _require_values(adapter: Adapter, base: Base | None, update: Update) -> None:
    """Refuse whole tensors and DoRA where there is nothing to take the difference from."""
    if not update.needs_base or update.base is not None:
        return
    name, why = printable(update.name), "holds DoRA's magnitudes for"
    if update.whole is not None:
        why = "holds the whole of"
    if base is None:
        remedy = "an update of it needs the base's values: give 'base', a node that loads the model"
    elif update.name not in base.specs:
        remedy = f"{base.origin} has no such tensor to change: add it with 'graft'"
    else:
        remedy = f"an update of it needs the base's values, which {base.origin} has to be loaded for (op 'load')"
    raise CheckpointError(
        f"{adapter.uri}: the adapter {why} '{name}' (modules_to_save, bias or use_dora in "
        f"{ADAPTER_CONFIG}), and {remedy}; "
        f"or leave it out with exclude: [{exact_glob(update.name)}]"
    )


def _base_names(adapter: Adapter, base: Base) -> dict[str, str]:
    """Return the base's name of each tensor that the adapter changes: the same, or with one prefix for all."""
    known = {**{name: name for name in base.specs}, **base.aliases}
    needed = [*adapter.factors, *adapter.biases] or list(adapter.whole)
    counts = {prefix: sum(_renamed(name, prefix) in known for name in needed) for prefix in _prefixes(needed, known)}
    complete = [prefix for prefix, count in counts.items() if count == len(needed)]
    if len(complete) > 1 and ("", "") not in complete:
        names = listed(_renamed(needed[0], prefix) for prefix in complete)
        raise CheckpointError(
            f"{adapter.uri}: the tensor '{printable(needed[0])}' could be {names} of {base.origin}: load the part of "
            "the model that the adapter is for, or use 'prefix' in its load node"
        )
    prefix = (
        ("", "")
        if ("", "") in complete
        else complete[0]
        if complete
        else max(counts, key=lambda prefix: counts[prefix])
    )
    missing = [name for name in needed if _renamed(name, prefix) not in known]
    if missing:
        near = did_you_mean(_renamed(missing[0], prefix), known) if len(known) < 5000 else ""
        raise CheckpointError(
            f"{adapter.uri}: the adapter changes {listed(missing)}, which {base.origin} lacks{near}: take the model "
            "that it was trained on as 'base'; if only the names differ, use 'prefix' or 'rename' in its load node"
        )
    every = dict.fromkeys([*needed, *adapter.whole])
    return {name: known.get(_renamed(name, prefix), _renamed(name, prefix)) for name in every}


def _prefixes(needed: list[str], known: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return ways to rename (prefix to strip, prefix to add) under which the longest name is one of the base's."""
    longest = max(needed, key=lambda name: (name.count("."), len(name), name))
    added = [("", name.removesuffix(longest)) for name in known if name.endswith(f".{longest}")]
    dots = [index + 1 for index, sign in enumerate(longest) if sign == "."]
    stripped = [(longest[:dot], "") for dot in dots[:-1] if longest[dot:] in known]
    return [("", ""), *stripped, *sorted(added)][:_MAX_PREFIXES]


def _renamed(name: str, way: tuple[str, str]) -> str:
    strip, add = way
    return add + name.removeprefix(strip)


def _values(updates: Iterable[Update], scale: float) -> Iterable[torch.Tensor]:
    """Yield the values of every update, row by row in chunks: 1-D float32, computed on one thread."""
    with one_thread(), closing(BlockReader()) as reader:
        for update in updates:
            yield from _chunks(reader, update, scale)


def _chunks(reader: BlockReader, update: Update, scale: float) -> Iterable[torch.Tensor]:
    rows, columns = update.shape[0] if update.shape else 1, math.prod(update.shape[1:])
    matrices = _matrices(reader, update) if update.factors else None
    step = max(ROWS_NUMEL // max(columns, 1), 1)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        value = torch.zeros(stop - start, columns)
        if matrices is not None and update.factors is not None:
            value += (matrices[0][start:stop] @ matrices[1]) * update.factors.scaling
        if update.bias is not None:
            value += _rows(reader, update.bias[0], start, stop, columns) * update.bias[1]
        if update.needs_base:
            value = _difference(reader, update, value, start)
        yield (value if scale == 1.0 else value * scale).flatten()


def _difference(reader: BlockReader, update: Update, change: torch.Tensor, start: int) -> torch.Tensor:
    """Return the difference of the new rows from the base's, with lengths set as DoRA has them."""
    assert update.base is not None
    stop, columns = start + change.shape[0], change.shape[1]
    base = _rows(reader, update.base, start, stop, columns)
    old = base if update.whole is None else _rows(reader, update.whole, start, stop, columns)
    new = old + change
    if update.factors is not None and update.factors.magnitude is not None:
        lengths = reader.block(update.factors.magnitude, start, stop).float().unsqueeze(1)
        new = new * (lengths / torch.linalg.vector_norm(new, dim=1, keepdim=True))
    return new - base


def _matrices(reader: BlockReader, update: Update) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the two factors, float32, whose product has the rows of the updated tensor."""
    assert update.factors is not None
    rank = update.factors.a.spec.shape[0]
    a, b = (reader.block(t, 0, t.spec.numel).float() for t in (update.factors.a, update.factors.b))
    b_matrix, a_matrix = b.view(-1, rank), a.view(rank, -1)
    if update.transposed or update.factors.embedding:
        return a_matrix.T.contiguous(), b_matrix.T.contiguous()
    return b_matrix, a_matrix


def _rows(reader: BlockReader, stored: StoredTensor, start: int, stop: int, columns: int) -> torch.Tensor:
    return reader.block(stored, start * columns, stop * columns).float().view(stop - start, columns)
