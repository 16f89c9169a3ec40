"""Chooses which weights of a model folder are read, from the names of its files: as transformers would."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from lines_pipeline.core.errors import CheckpointError

_TORCH = ("bin", "pt", "pth", "ckpt")
_SHARD = re.compile(r"(.+)-(\d{5,9})-of-(\d{5,9})(\.[\w-]+)?\.(safetensors|bin|pt|pth|ckpt)", re.ASCII)
_INDEX = re.compile(r"(.+)\.(safetensors|bin)\.index(\.[\w-]+)?\.json", re.ASCII)
_TRAINING_STATE = re.compile(
    r"(optimizer|optim|scheduler|lr_scheduler|scaler|rng_state|random_states|training_args|custom_checkpoint"
    r"|dl_state_dict|sampler)([_\d.-].*)?\.(bin|pt|pth)|.*_(optim|model)_states\.pt",
    re.ASCII,
)
_TRANSFORMERS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""The order in which transformers looks for weights."""
_SAME_MODEL = {"pytorch_model": "model", "open_clip_pytorch_model": "open_clip_model"}
_ADAPTER = "adapter_model"


@dataclass(frozen=True, order=True)
class Weights:
    """Describes one way to read a folder: a file, an index with its shards, or shards without an index."""

    order: int
    """0 for a file, 1 for an index, 2 for shards without one."""
    name: str
    """The file, the index, or the first shard."""
    stem: str
    suffix: str
    shards: tuple[str, ...] = ()
    """Shards by their names, which an index may contradict."""
    total: int = 0
    """How many shards a set without an index should have."""
    missing: str = ""
    """The first of those that are not there."""

    @property
    def model(self) -> str:
        """Return the model's name, which its weights share in all formats."""
        return _SAME_MODEL.get(self.stem, self.stem)


@dataclass(frozen=True)
class Choice:
    """Holds the weights of a folder that are read, and what lies beside them."""

    taken: Weights
    others: tuple[Weights, ...]

    def note(self, read: Collection[str] = ()) -> str:
        """Return a message for the user; nothing where there was no choice. ``read`` are files that an index names."""
        unread = [weights.name for weights in self.others if weights.name not in read]
        if not unread:
            return ""
        listed = ", ".join(f"'{name}'" for name in unread[:4])
        also = f" and {len(unread) - 4} more" if len(unread) > 4 else ""
        why = ", as transformers does," if self.taken.name in _TRANSFORMERS else ""
        return f"the folder holds several checkpoints: '{self.taken.name}' is read{why} and not {listed}{also}"


def choose_weights(names: Iterable[str]) -> Choice | None:
    """Return the weights to read of a folder that holds ``names``; None where there are none.

    Raises ``CheckpointError`` (without the folder) where several models or sets of shards could be meant, and where
    shards without an index are not complete.
    """
    ways = list_weights(names)
    by_name = {weights.name: weights for weights in ways}
    known = [by_name[name] for name in _TRANSFORMERS if name in by_name]
    taken = known[0] if known else _only_model(ways)
    if taken is None:
        return None
    if taken.missing:
        parts = f"{len(taken.shards)} of {taken.total} are there"
        raise CheckpointError(f"shard '{taken.missing}' is missing ({parts}): copy or download it again")
    return Choice(taken, tuple(weights for weights in ways if weights is not taken))


def _only_model(ways: Sequence[Weights]) -> Weights | None:
    """Return the one model that the folder holds, in the format that is preferred."""
    models = [weights for weights in ways if weights.stem != _ADAPTER] or list(ways)
    preferred = [weights for weights in models if weights.suffix == "safetensors"] or models
    if not preferred:
        return None
    best = min(preferred)
    rivals = [w for w in preferred if w is not best and (w.model != best.model or w.order == best.order)]
    if rivals:
        names = ", ".join(f"'{weights.name}'" for weights in sorted([best, *rivals], key=lambda w: w.name)[:4])
        kinds = "checkpoints" if any(weights.model != best.model for weights in rivals) else "sets of shards"
        raise CheckpointError(
            f"the folder holds several {kinds} ({names}) and nothing says which is meant; name the file"
        )
    return best


def list_weights(names: Iterable[str]) -> list[Weights]:
    """Return every way to read a folder that holds ``names``, sorted; files of a training's state are left out."""
    ways: list[Weights] = []
    shards: list[tuple[tuple[str, str, int], int, str]] = []
    for name in sorted(names):
        if match := _SHARD.fullmatch(name):
            stem, number, total, variant, suffix = match.groups(default="")
            shards.append(((stem + variant, suffix, int(total)), int(number), name))
        elif match := _INDEX.fullmatch(name):
            stem, suffix, variant = match.groups(default="")
            ways.append(Weights(1, name, stem + variant, suffix))
        elif name.rpartition(".")[2] in ("safetensors", *_TORCH) and not _TRAINING_STATE.fullmatch(name):
            stem, _, suffix = name.rpartition(".")
            ways.append(Weights(0, name, stem, suffix))
    indexed = {(weights.stem, weights.suffix) for weights in ways if weights.order == 1}
    for (stem, suffix, total), group in groupby(sorted(shards), key=lambda shard: shard[0]):
        numbers = {number: name for _, number, name in group}
        if (stem, suffix) not in indexed:
            ways.append(_shard_set(stem, suffix, total, numbers))
    return sorted(ways)


def _shard_set(stem: str, suffix: str, total: int, numbers: dict[int, str]) -> Weights:
    first = next(iter(numbers.values()))
    before, of, after = first.rpartition("-of-")
    base, _, number = before.rpartition("-")
    absent = next((n for n in range(1, len(numbers) + 2) if n not in numbers and n <= total), 0)
    missing = f"{base}-{absent:0{len(number)}d}{of}{after}" if absent else ""
    return Weights(2, first, stem, suffix, tuple(numbers.values()), total, missing)
