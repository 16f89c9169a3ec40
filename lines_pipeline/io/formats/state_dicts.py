"""Finds the state dict in what a training script saved: by its key, or the usual one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from lines_pipeline.core.errors import CheckpointError, did_you_mean
from lines_pipeline.core.printable import printable
from lines_pipeline.io.formats.pickled import Call, Entries, Name, Reference
from lines_pipeline.io.formats.torch_tensors import is_tensor

USUAL = ("state_dict", "model_state_dict", "model", "module", "params", "net", "network", "weights", "generator")
"""Keys of trained weights, in the order of preference."""
AVERAGED = ("state_dict_ema", "model_ema", "params_ema", "ema_state_dict", "ema")
"""Keys of their running averages, which are taken only where there is nothing else."""
MAX_DEPTH = 4
MAX_WORK = 4_000_000
"""The most entries of maps and lists that are looked at."""
MAX_TOLD = 4
"""The most names in a message."""

_NOT_WEIGHTS = ("optim", "sched", "lr_", "scaler")


@dataclass(frozen=True)
class StateDict:
    """Holds the pickled tensors of a state dict, its dotted key (empty: the file is no more than that), and notes."""

    key: str
    tensors: Mapping[str, Call]
    notes: tuple[str, ...]


def find_state_dict(path: str, content: Any, key: str = "") -> StateDict:
    """Return the state dict with a dotted key, or the usual one. Raises ``CheckpointError`` naming those there are."""
    present = dict(_state_dicts(content))
    if key:
        if key not in present:
            near = did_you_mean(key, present)
            raise CheckpointError(f"{path}: has no state dict '{printable(key)}'{near}; {_there_are(present)}")
        return _taken(path, key, present[key], [])
    if not present:
        raise CheckpointError(
            f"{path}: {_what_it_is(content)}. Save model.state_dict() with torch.save or safetensors."
        )
    chosen = _usual(list(present))
    if chosen is None:
        raise CheckpointError(
            f"{path}: holds several state dicts; say which one with 'key' in its load node. {_there_are(present)}"
        )
    others = [key_present for key_present in present if key_present != chosen and not _is_of_training(key_present)]
    return _taken(path, chosen, present[chosen], _choice(path, chosen, others))


def _state_dicts(content: Any) -> Iterator[tuple[str, Entries]]:
    """Yield every map that holds tensors, by dotted key; the file's own is ''."""
    waiting: deque[tuple[tuple[str, ...], Any]] = deque([((), content)])
    work = 0  # what a pickle mentions often it holds only once, so that its size bounds nothing here
    while waiting and work < MAX_WORK:
        keys, value = waiting.popleft()
        work += len(value) if isinstance(value, Entries | list | tuple) else 1
        if isinstance(value, Entries) and any(is_tensor(entry) for entry in value.values()):
            yield ".".join(keys), value
        if len(keys) < MAX_DEPTH:
            parts = islice(_parts(value), MAX_WORK - min(len(waiting), MAX_WORK))
            waiting += (((*keys, name), part) for name, part in parts if isinstance(part, Entries | list | tuple))


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Entries):
        yield from value.items()
    elif isinstance(value, list | tuple):
        yield from ((str(number), entry) for number, entry in enumerate(value))


def _usual(keys: Sequence[str]) -> str | None:
    """Return the key of trained weights; None where that is not known."""
    for usual in (*USUAL, "", *AVERAGED):
        if usual in keys:
            return usual
    weights = [key for key in keys if not _is_of_training(key)] or list(keys)
    for usual in USUAL:
        below = [key for key in weights if key.startswith(f"{usual}.")]
        if len(below) == 1:
            return below[0]
    return weights[0] if len(weights) == 1 else None


def _is_of_training(key: str) -> bool:
    """Return whether a map of tensors is an optimizer's or scheduler's."""
    return any(part.lower().startswith(_NOT_WEIGHTS) for part in key.split("."))


def _choice(path: str, chosen: str, others: Sequence[str]) -> list[str]:
    """Return a message on the choice where there was one, or where the key is none of the usual."""
    if not others and chosen in ("", *USUAL):
        return []
    taken = f"'{printable(chosen)}'" if chosen else "the tensors outside any key"
    beside = f"; it also holds {_named(others)}, which 'key' would take" if others else ""
    return [f"{path}: {taken} was taken{beside}"]


def _taken(path: str, key: str, entries: Entries, notes: list[str]) -> StateDict:
    tensors = {name: value for name, value in entries.items() if is_tensor(value)}
    left_out = [f"'{printable(name)}' ({_kind(value)})" for name, value in entries.items() if name not in tensors]
    if entries.unnamed:
        left_out.append(f"{entries.unnamed} whose keys are no texts")
    if left_out:
        also = f" and {len(left_out) - MAX_TOLD} more" if len(left_out) > MAX_TOLD else ""
        notes.append(f"{path}: left out, for they are no tensors: {', '.join(left_out[:MAX_TOLD])}{also}")
    return StateDict(key, tensors, tuple(notes))


def _there_are(present: Mapping[str, Entries]) -> str:
    nested = [key for key in present if key]
    if not nested:
        return "it holds one state dict, outside any key: leave 'key' away" if present else "it holds none"
    return f"it holds {_named(nested)}"


def _named(keys: Sequence[str]) -> str:
    also = f" and {len(keys) - MAX_TOLD} more" if len(keys) > MAX_TOLD else ""
    return ", ".join(f"'{printable(key)}'" for key in keys[:MAX_TOLD]) + also


def _kind(value: Any) -> str:
    """Return the kind of a value that is no tensor, in a word or two."""
    if isinstance(value, Call):
        return printable(_class_of(value))
    if isinstance(value, Entries):
        return "a map"
    if value is None:
        return "None"
    return {Name: "a class or function", Reference: "a storage"}.get(type(value), type(value).__name__)


def _class_of(call: Call) -> str:
    """Return the class of a pickled object."""
    built_class = call.arguments[0] if isinstance(call.arguments, tuple) and call.arguments else None
    is_built = call.name.endswith(("._reconstructor", ".__newobj__", "._reconstruct")) and isinstance(built_class, Name)
    return built_class.text if is_built and isinstance(built_class, Name) else call.name


def _what_it_is(content: Any) -> str:
    """Return what a file holds that has no state dict in it."""
    if isinstance(content, Call):
        return f"holds no state dict but a pickled {printable(_class_of(content))}, which is not loaded"
    objects = [(name, value) for name, value in _parts(content) if isinstance(value, Call)]
    if objects and not isinstance(content, Call):
        name, value = objects[0]
        known = "a tensor" if is_tensor(value) else f"a pickled {printable(_class_of(value))}"
        return f"holds no state dict: '{printable(name)}' is {known}, and a map of names to tensors was expected"
    return f"holds no state dict, but {_kind(content)} without tensors"
