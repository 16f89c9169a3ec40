"""Digests the content of checkpoints, equal for all formats and shardings, and remembers the digests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import blake3
import torch
import xxhash

from lines_pipeline.core.fingerprints import canonical_json
from lines_pipeline.core.tensor_specs import BLOCK_NUMEL, TensorSpec
from lines_pipeline.io.checkpoint import Checkpoint, StoredTensor
from lines_pipeline.io.entries import read_entry, write_entry
from lines_pipeline.io.masks import SHAPES, VALUE_TYPE
from lines_pipeline.io.reading import BlockReader, as_bytes


def block_digest(stored: memoryview) -> int:
    """Return XXH3 (64 bits) of one block as stored: it shows every accident, but does not stand up to forgery."""
    return xxhash.xxh3_64_intdigest(stored)


def checkpoint_digest(
    specs: Sequence[TensorSpec], blocks: Mapping[str, Sequence[int]], aliases: Mapping[str, str], shapes: str = ""
) -> str:
    """Return the digest (hex) of names, data types, shapes and values; ``blocks`` by tensor, in block order.

    ``shapes`` is what the files say of the shapes of packed tensors.
    """
    digest = blake3.blake3()
    for spec in sorted(specs, key=lambda spec: spec.name):
        digest.update(canonical_json([spec.name, spec.dtype, list(spec.shape)]).encode())
        for block in blocks.get(spec.name, ()):
            digest.update(block.to_bytes(8))
    digest.update(canonical_json(dict(aliases)).encode() + shapes.encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Known:
    """Holds what a reading of a whole checkpoint found: the content digest, and the tensors that hold NaN or Inf.

    The digest is that of the files' content: it does not change with the names that a recipe gives the tensors.
    """

    digest: str
    nonfinite: tuple[str, ...] = ()


def identify(
    checkpoint: Checkpoint, hashed: Mapping[str, Sequence[int]] | None = None, nonfinite: Iterable[str] = ()
) -> Known:
    """Find the content digest and the tensors with NaN or Inf; read tensors whose blocks are not yet in ``hashed``.

    The digest is of the files' content as it is stored, packed masks in their bytes, under the names that files have.
    """
    blocks, bad = dict(hashed or {}), set(nonfinite)
    reader = BlockReader()
    try:
        for name, stored in checkpoint.tensors.items():
            if stored.packed or len(blocks.get(name, ())) != -(-stored.spec.numel // BLOCK_NUMEL):
                blocks[name], is_finite = _hash(reader, _as_stored(stored))
                if not is_finite:
                    bad.add(name)
    finally:
        reader.close()
    names, aliases = _names_in_files(checkpoint)
    specs = [replace(_as_stored(stored).spec, name=names[name]) for name, stored in checkpoint.tensors.items()]
    by_stored_name = {names[name]: of_tensor for name, of_tensor in blocks.items()}
    shapes = checkpoint.metadata.get(SHAPES, "") if checkpoint.metadata.get(VALUE_TYPE) == "mask" else ""
    return Known(checkpoint_digest(specs, by_stored_name, aliases, shapes), tuple(sorted(bad)))


def _as_stored(stored: StoredTensor) -> StoredTensor:
    """Return a tensor as its file has it: a packed mask as bytes."""
    if not stored.packed:
        return stored
    return replace(stored, spec=TensorSpec(stored.spec.name, "uint8", (-(-stored.spec.numel // 8),)), packed=False)


def _names_in_files(checkpoint: Checkpoint) -> tuple[dict[str, str], dict[str, str]]:
    """Return the files' first name of each tensor, whichever of several a recipe keeps, and their aliases."""
    kept = checkpoint.stored_names
    names = {name: kept.get(name, name) for name in checkpoint.tensors}
    tied: dict[str, list[str]] = {}
    for alias, name in checkpoint.aliases.items():
        tied.setdefault(name, [kept.get(name, name)]).append(kept.get(alias, alias))
    aliases: dict[str, str] = {}
    for name, group in tied.items():
        first, *other_names = sorted(group)
        aliases |= dict.fromkeys(other_names, first)
        if name in names:
            names[name] = first
    return names, aliases


def _hash(reader: BlockReader, stored: StoredTensor) -> tuple[list[int], bool]:
    """Return digests of a tensor's blocks, and whether all values are finite."""
    digests: list[int] = []
    is_finite = True
    for start in range(0, stored.spec.numel, BLOCK_NUMEL):
        block = reader.block(stored, start, min(start + BLOCK_NUMEL, stored.spec.numel))
        digests.append(block_digest(as_bytes(block)))
        if stored.spec.is_floating:
            values = block if block.dtype is torch.float64 else block.float()
            is_finite = is_finite and bool(torch.isfinite(values).all())
    return digests, is_finite


class DigestStore:
    """Remembers digests by the identity of a checkpoint's files, one small file each: safe with several processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, checkpoint: Checkpoint) -> Known | None:
        """Return what is known of the checkpoint as its files are now; damaged entries count as unknown."""
        entry = read_entry(self._path(checkpoint))
        if entry is None:
            return None
        names = {stored: name for name, stored in _names_in_files(checkpoint)[0].items()}
        return Known(entry["digest"], tuple(sorted(names.get(stored, stored) for stored in entry["nonfinite"])))

    def put(self, checkpoint: Checkpoint, known: Known) -> None:
        """Remember what is known of the checkpoint as its files are now."""
        names = _names_in_files(checkpoint)[0]
        nonfinite = sorted(names[name] for name in known.nonfinite)
        entry = {"digest": known.digest, "nonfinite": nonfinite}  # no path: there may be secrets in it
        write_entry(self._path(checkpoint), entry)

    def _path(self, checkpoint: Checkpoint) -> Path:
        files = [list(astuple(file)) for file in checkpoint.files]
        names = sorted(_names_in_files(checkpoint)[0].values())
        identity = canonical_json(["xxh3 of all tensors", 4, files, checkpoint.part, names])
        return self._folder / f"{blake3.blake3(identity.encode()).hexdigest()[:40]}.json"
