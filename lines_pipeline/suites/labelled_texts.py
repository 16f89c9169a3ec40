"""Reads the texts and labels of a task: rows of a CSV, TSV, JSON lines or parquet file, or of a dataset of the hub."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lines_pipeline.core.errors import EvalError, did_you_mean
from lines_pipeline.core.printable import shortened
from lines_pipeline.io.checkpoint import SourceFile
from lines_pipeline.suites.labelled_tensors import hub_dataset
from lines_pipeline.suites.samples import Array
from lines_pipeline.suites.text_classification_file import Columns

Row = tuple[str, Mapping[str, Any]]
"""Where it stands (``file:line``), and its values by column."""


@dataclass(frozen=True)
class LabelledTexts:
    """Holds the texts of a split in order, their classes, and which belong together."""

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    """The second texts, where a sample is a pair."""
    labels: torch.Tensor
    """int64 [n]."""
    clusters: Array | None
    """int32 [n]."""

    def __len__(self) -> int:
        return len(self.texts)

    def picked(self, numbers: Sequence[int]) -> LabelledTexts:
        """Return some samples, in the order of their numbers."""
        pairs = None if self.pairs is None else tuple(self.pairs[n] for n in numbers)
        clusters = None if self.clusters is None else self.clusters[list(numbers)]
        return LabelledTexts(tuple(self.texts[n] for n in numbers), pairs, self.labels[list(numbers)], clusters)

    def by_length(self) -> list[int]:
        """Return the numbers of all samples, the shortest text first, so that batches need little padding."""
        pairs = self.pairs or ("",) * len(self.texts)
        return sorted(range(len(self.texts)), key=lambda n: len(self.texts[n]) + len(pairs[n]))


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file by the ending of its name; ``EvalError`` with file and line."""
    ending = path.suffix.lower()
    if ending == ".parquet":
        return _parquet(path)
    if ending in (".jsonl", ".ndjson"):
        return _json_lines(path)
    return _delimited(path, tabs=ending == ".tsv")


def hub_rows(source: str) -> Iterator[Row]:
    """Yield the rows of ``hf://datasets/org/name[/configuration]#split``; classes by name where it has names."""
    data = hub_dataset(source)
    named = {column: kind.names for column, kind in data.features.items() if hasattr(kind, "names")}
    for number, row in enumerate(data, 1):
        yield f"{source}: row {number}", {**row, **{c: names[row[c]] for c, names in named.items() if row[c] >= 0}}


def labelled_texts(rows: Iterable[Row], columns: Columns, names: Sequence[str], classes: int) -> LabelledTexts:
    """Return the texts of rows; ``EvalError`` with the place of a column that is missing or a label that is unknown.

    A label is one of ``names``, or the number of a class.
    """
    needed = [column for column in (columns.text, columns.pair, columns.label, columns.cluster) if column is not None]
    texts, pairs, labels, clusters = list[str](), list[str](), list[int](), list[Any]()
    for where, row in rows:
        for column in needed:
            if row.get(column) is None:
                known = ", ".join(map(shortened, row)) or "none"
                near = did_you_mean(column, [str(name) for name in row if name is not None])
                raise EvalError(f"{where}: no value in column '{column}'{near}; it has: {known}")
        texts.append(_text(where, row, columns.text))
        labels.append(_class(where, row[columns.label], names, classes))
        if columns.pair is not None:
            pairs.append(_text(where, row, columns.pair))
        if columns.cluster is not None:
            clusters.append(row[columns.cluster])
    return LabelledTexts(
        tuple(texts),
        tuple(pairs) if columns.pair else None,
        torch.tensor(labels, dtype=torch.int64),
        _numbered(clusters),
    )


def _text(where: str, row: Mapping[str, Any], column: str) -> str:
    if not isinstance(row[column], str):
        raise EvalError(f"{where}: column '{column}' holds a {type(row[column]).__name__}, expected a text")
    return str(row[column])


def _class(where: str, value: Any, names: Sequence[str], classes: int) -> int:
    spelled = str(value).strip()
    if spelled in names:
        return names.index(spelled)
    number = int(spelled) if not isinstance(value, bool) and spelled.isdecimal() and len(spelled) < 10 else -1
    if 0 <= number < classes:
        return number
    expected = f"one of {', '.join(names[:20])}, or a number" if names else "a number"
    raise EvalError(
        f"{where}: unknown label '{shortened(spelled)}'{did_you_mean(spelled, names)}, "
        f"expected {expected} from 0 to {classes - 1}"
    )


def _numbered(clusters: Sequence[Any]) -> Array | None:
    """Return numbers for what is equal, in the order of their first use."""
    numbers: dict[Any, int] = {}
    of_clusters = [numbers.setdefault(str(value), len(numbers)) for value in clusters]
    return np.array(of_clusters, dtype=np.int32) if of_clusters else None


def _content(path: Path) -> str:
    try:
        SourceFile.of(path)  # before it is opened: a pipe would wait for ever
        content = path.read_bytes()
    except OSError as error:
        raise EvalError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise EvalError(f"{path}:{line}: not UTF-8 ({error.reason}); store the file as UTF-8") from error


def _delimited(path: Path, *, tabs: bool) -> Iterator[Row]:
    """Yield rows below a line of names. Fields of CSV may be quoted; those of TSV are as they stand."""
    text = io.StringIO(_content(path), newline="")
    reader = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(text, strict=True)
    line = 1
    try:
        header = next(reader, [])
        if not header or len(set(header)) < len(header):
            raise EvalError(f"{path}:1: expected the names of the columns, each once, found {header}")
        line = reader.line_num + 1
        for fields in reader:
            if len(fields) not in (0, len(header)):
                raise EvalError(f"{path}:{line}: {len(fields)} fields, expected {len(header)}: {', '.join(header)}")
            if fields:
                yield f"{path}:{line}", dict(zip(header, fields, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise EvalError(f"{path}:{line}: not valid {'TSV' if tabs else 'CSV'}: {error}") from error


def _json_lines(path: Path) -> Iterator[Row]:
    for line, text in enumerate(_content(path).split("\n"), 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise EvalError(f"{path}:{line}: not valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise EvalError(f"{path}:{line}: found a {type(row).__name__}, expected an object with the columns")
        yield f"{path}:{line}", row


def _parquet(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise EvalError(f"{path}: parquet needs pyarrow: pip install 'lines-pipeline[transformers]'") from error
    SourceFile.of(path)
    try:
        with ParquetFile(path) as file:
            rows = [row for batch in file.iter_batches() for row in batch.to_pylist()]
    except (ArrowException, OSError) as error:
        raise EvalError(f"{path}: not valid parquet: {error}") from error
    for number, row in enumerate(rows, 1):
        yield f"{path}: row {number}", row
