"""Splits the texts of a task, the same for everyone, and keeps them in the cache as JSON lines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from lines_pipeline.io.write_once import written_once
from lines_pipeline.zoo.entries import cache_folder
from lines_pipeline.zoo.texts.corpora import Labelled
from lines_pipeline.zoo.texts.tasks import SUITE, TASKS, classes

TEXTS_VERSION = "1"
"""Raise it when tasks, texts, splits or training change: texts and experts are then made anew."""
HELD_OUT_FRACTION = 0.15
LARGEST = {"val": 250, "test": 500}
"""Texts a task and split; the rest is not used."""
SPLITS = ("train", "val", "test")


def folder() -> Path:
    """Return the folder with the suite's file and the texts."""
    return cache_folder() / "zoo" / f"texts-v{TEXTS_VERSION}"


def split_file(task: str, split: str) -> Path:
    """Return where the texts of a split are kept."""
    return folder() / "data" / f"{task}_{split}.jsonl"


def write_splits(task: str) -> None:
    """Write the texts of a task, those that are not there as they were written; fetch their source if need be."""
    parts: dict[str, list[Labelled]] = {}
    names = set(classes(task).names)

    def of_split(split: str) -> str:
        if not parts:
            parts.update(divided(text for text in TASKS[task].read() if text.label in names))
        return "".join(map(_line, parts[split]))

    _write(folder() / SUITE.name, lambda: SUITE.read_text(encoding="utf-8"), "the suite zoo://texts")
    for split in SPLITS:
        _write(split_file(task, split), partial(of_split, split), f"the texts of {task}")


def _write(path: Path, content: Callable[[], str], what: str) -> None:
    def write(temporary: Path) -> None:
        temporary.write_text(content(), encoding="utf-8")

    written_once(path, write, what=what)


def read_split(task: str, split: str) -> list[Labelled]:
    """Return the texts of a split, in order; written first if need be."""
    write_splits(task)
    with split_file(task, split).open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [Labelled(row["text"], row["label"], row["cluster"]) for row in rows]


def divided(texts: Iterable[Labelled]) -> dict[str, list[Labelled]]:
    """Return each text once, by split. A cluster is in one split; a published test set is kept.

    By the hash of its cluster a text falls into test (0.15), validation (0.15) or training; validation and test keep
    the first 250 and 500 in the order of their hashes.
    """
    once: dict[str, Labelled] = {}
    for text in texts:
        once.setdefault(text.text, text)
    parts: Mapping[str, list[Labelled]] = {split: [] for split in SPLITS}
    for text in sorted(once.values(), key=lambda labelled: _hash(labelled.text)):
        parts[_split(text)].append(text)
    return {split: _first(members, LARGEST.get(split)) for split, members in parts.items()}


def _split(text: Labelled) -> str:
    share = int(_hash(text.cluster)[:8], 16) / 16**8
    if text.held_out is not None:
        return "test" if text.held_out else "val" if share < HELD_OUT_FRACTION else "train"
    return "test" if share < HELD_OUT_FRACTION else "val" if share < 2 * HELD_OUT_FRACTION else "train"


def _first(texts: Sequence[Labelled], count: int | None) -> list[Labelled]:
    return list(texts if count is None else texts[:count])


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _line(text: Labelled) -> str:
    content = {"text": text.text, "label": text.label, "cluster": _hash(text.cluster)[:16]}
    return json.dumps(content, ensure_ascii=False) + "\n"
