"""Content digests of checkpoints, the same whatever the format and sharding, and the memory of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import blake3
import xxhash

from lines_pipeline.core.keys import canonical_json
from lines_pipeline.core.tensors import TensorSpec
from lines_pipeline.io.checkpoints import Checkpoint
from lines_pipeline.io.entries import read_entry, write_entry


def block_digest(stored: memoryview) -> int:
    """XXH3 (64 bits) of one block as stored: sees every accident, but does not stand up to forgery."""
    return xxhash.xxh3_64_intdigest(stored)


def checkpoint_digest(
    specs: Sequence[TensorSpec], blocks: Mapping[str, Sequence[int]], aliases: Mapping[str, str]
) -> str:
    """Digest (hex) of names, data types, shapes and values; ``blocks`` by tensor, in block order."""
    digest = blake3.blake3()
    for spec in sorted(specs, key=lambda spec: spec.name):
        digest.update(canonical_json([spec.name, spec.dtype, list(spec.shape)]).encode())
        for block in blocks.get(spec.name, ()):
            digest.update(block.to_bytes(8))
    digest.update(canonical_json(dict(aliases)).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Known:
    """What an earlier sweep found out: the content digest, and the tensors that hold NaN or Inf."""

    digest: str
    nonfinite: tuple[str, ...] = ()


class DigestStore:
    """Remembers digests by the identity of a checkpoint's files, one small file each: safe with several processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, checkpoint: Checkpoint) -> Known | None:
        """What is known of the checkpoint as its files are now; damaged entries count as unknown."""
        entry = read_entry(self._path(checkpoint))
        return None if entry is None else Known(entry["digest"], tuple(entry["nonfinite"]))

    def put(self, checkpoint: Checkpoint, known: Known) -> None:
        """Remember."""
        entry = {"digest": known.digest, "nonfinite": list(known.nonfinite), "uri": checkpoint.uri}
        write_entry(self._path(checkpoint), entry)

    def _path(self, checkpoint: Checkpoint) -> Path:
        files = [list(astuple(file)) for file in checkpoint.files]
        identity = canonical_json(["xxh3 by tensor", files, list(checkpoint.tensors)])
        return self._folder / f"{blake3.blake3(identity.encode()).hexdigest()[:40]}.json"
