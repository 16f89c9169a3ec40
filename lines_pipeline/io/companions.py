"""Finds the files of a model folder that belong beside merged weights: configuration, tokenizer, modules."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lines_pipeline.io.json_files import read_json_or_none, read_modules

MANIFEST = "lines_pipeline.json"
"""Lists the files of a model folder that were written by a run, so that a later one can take them away."""
CARD = "README.md"

_CONFIGURATIONS = ("config.json", "modules.json", "open_clip_config.json")
_MAX_LINKS = 8
_KEPT = re.compile(
    r".+\.(json|txt|model|jinja|spm|tiktoken|codes|bpe|vocab|tokenizer)"
    r"|tokenizer\.model.*|(LICEN[SC]E|COPYING|NOTICE|USE_POLICY)([.-].*)?",
    re.IGNORECASE,
)
_LEFT_OUT = re.compile(
    r"\..*|.*\.index(\..*)?\.json|(optimizer|scheduler|rng_state|training_args|trainer_state|wandb).*"
    r"|(all|train|eval|test|predict)_results.*|.*predictions.*|requirements.*\.txt|adapter_.*|quant(ize|ization)_config\.json"
    rf"|log_history\.json|{re.escape(CARD)}|{re.escape(MANIFEST)}",
    re.IGNORECASE,
)
_WEIGHTS = re.compile(r".+\.safetensors|pytorch_model\.bin")
_FOLDERS = re.compile(r"additional_chat_templates|.+_tokenizer")
_STEMS = re.compile(r"(diffusion_pytorch_model|open_clip_model)[.-]")


@dataclass(frozen=True)
class Companion:
    """Describes a file for a model folder: its place there (relative, with ``/``), and where it is copied from."""

    name: str
    source: Path


@dataclass(frozen=True)
class Companions:
    """Lists the files that a model folder gets beside its weights, which go to ``weights`` (relative) in it."""

    weights: str
    files: tuple[Companion, ...] = ()
    origin: Path | None = None
    """The folder that the files come from."""
    notes: tuple[str, ...] = ()

    @property
    def config(self) -> str:
        """Return the place of the weights' configuration, if there is one."""
        return str(PurePosixPath(self.weights).with_name("config.json"))

    @property
    def library(self) -> str:
        """Return the library that loads such a folder, as the Hugging Face hub names it; empty where unknown."""
        names = {file.name for file in self.files}
        if "modules.json" in names:
            return "sentence-transformers"
        return "transformers" if self.config in names and "model" in PurePosixPath(self.weights).stem else ""


def find_companions(checkpoint: Path) -> Companions:
    """Return the companions of a checkpoint's file, from its folder; follow no link out of it, read no weights."""
    folder = _folder_of(checkpoint)
    stem = _STEMS.match(checkpoint.name)
    weights = f"{stem[1] if stem else 'model'}.safetensors"
    root, prefix, modules = _root_of(folder)
    if not any((parent / name).is_file() for parent in (root, folder) for name in _CONFIGURATIONS):
        note = f"no config.json lies beside {checkpoint.name}, so only weights are written"
        return Companions(weights, notes=(f"{note}; 'like' names a node whose folder to follow",))
    gathered = _Gathered(root)
    gathered.add_files(root, "")
    if prefix:
        gathered.add_files(folder, prefix)
    for module in modules:
        if module != prefix:
            gathered.add_tree(root / module, module, with_weights=True)
    files = tuple(Companion(name, source) for name, source in sorted(gathered.files.items()))
    place = f"{prefix}/{weights}" if prefix else weights
    return Companions(place, files, root, tuple(gathered.notes(place)))


def config_beside(checkpoint: Path) -> Path | None:
    """Return the ``config.json`` beside a checkpoint's file; None where there is none."""
    path = _folder_of(checkpoint) / "config.json"
    return path if path.is_file() else None


def config_of(checkpoint: Path) -> Mapping[str, Any]:
    """Return the content of the ``config.json`` beside a checkpoint's file; empty where there is none to read."""
    path = config_beside(checkpoint)
    content = None if path is None else read_json_or_none(path)
    return content if isinstance(content, Mapping) else {}


def model_root(checkpoint: Path) -> Path:
    """Return the model folder that a checkpoint's file belongs to."""
    return _root_of(_folder_of(checkpoint))[0]


def _folder_of(checkpoint: Path) -> Path:
    """Return the folder with the checkpoint's configuration: its own, or that of the file it is a link to."""
    place = checkpoint
    for _ in range(_MAX_LINKS):
        if any((place.parent / name).is_file() for name in _CONFIGURATIONS) or not place.is_symlink():
            return place.parent
        place = place.parent / os.readlink(place)
    return checkpoint.parent


def _root_of(folder: Path) -> tuple[Path, str, tuple[str, ...]]:
    """Return the model's folder, where in it the weights lie, and its other modules (sentence-transformers)."""
    above = folder.parent
    if folder.name in (names := read_modules(above)):
        return above, folder.name, names
    return folder, "", read_modules(folder)


class _Gathered:
    """Collects files by their place, and messages on those that were left out."""

    def __init__(self, root: Path) -> None:
        self.files: dict[str, Path] = {}
        self._code: list[str] = []
        self._links: list[str] = []
        self._real = root.resolve()
        self._blobs = self._real.parent.parent / "blobs" if self._real.parent.name == "snapshots" else self._real

    def add_files(self, folder: Path, prefix: str) -> None:
        """Add the companions in ``folder``, and those in its folders of tokenizers and templates."""
        for entry in _entries(folder):
            if entry.is_dir() and _FOLDERS.fullmatch(entry.name):
                self.add_tree(entry, _joined(prefix, entry.name), with_weights=False)
            elif entry.is_file():
                self._add(entry, _joined(prefix, entry.name), with_weights=False)

    def add_tree(self, folder: Path, prefix: str, *, with_weights: bool, depth: int = 4) -> None:
        """Add the companions in ``folder`` and all below it."""
        if depth == 0 or not self._stays(folder, prefix):
            return
        for entry in _entries(folder):
            name = _joined(prefix, entry.name)
            if entry.is_dir() and not entry.name.startswith("."):
                self.add_tree(entry, name, with_weights=with_weights, depth=depth - 1)
            elif entry.is_file():
                self._add(entry, name, with_weights=with_weights)

    def notes(self, weights: str) -> Iterator[str]:
        """Return messages on the files that were copied and those that were not."""
        if self._code:
            yield f"code is never copied into a model folder, {', '.join(self._code)} left out: copy what you trust"
        if self._links:
            yield f"{', '.join(self._links)} left out of the model folder: a link that leads out of the folder it is in"
        kept = [name for name in self.files if _WEIGHTS.fullmatch(PurePosixPath(name).name) and name != weights]
        if kept:
            yield f"{', '.join(kept)} copied as it is, as no part of the merge"

    def _add(self, entry: Path, name: str, *, with_weights: bool) -> None:
        is_kept = _KEPT.fullmatch(entry.name) and not _LEFT_OUT.fullmatch(entry.name)
        if entry.suffix == ".py":
            self._code.append(name)
        elif (is_kept or (with_weights and _WEIGHTS.fullmatch(entry.name))) and self._stays(entry, name):
            self.files[name] = entry

    def _stays(self, entry: Path, name: str) -> bool:
        real = entry.resolve()
        if real.is_relative_to(self._real) or real.is_relative_to(self._blobs):
            return True
        self._links.append(name)
        return False


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}/{name}" if prefix else name
