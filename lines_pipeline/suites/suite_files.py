"""Reads a suite file: YAML as safely as a recipe's, all mistakes at once, each with its place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from lines_pipeline.core.errors import Diagnostic, EvalError, RecipeError
from lines_pipeline.core.printable import shortened
from lines_pipeline.core.scalars import unspelled
from lines_pipeline.recipe.binding.validation import Complaint, validated
from lines_pipeline.recipe.syntax.source_map import SourceMap, spoken
from lines_pipeline.recipe.syntax.yaml_source import parse_yaml, read_text
from lines_pipeline.suites.factories import check_factory

SPLITS = ("train", "val", "test")
_NAME = re.compile(r"[^\[\]{}\x00-\x1f\x7f]{1,200}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _plain_path(value: str) -> str:
    if not value or _CONTROL.search(value):
        raise ValueError(f"expected a path or URL, found '{shortened(value)}'")
    return value


def _by_split(value: dict[str, Any]) -> dict[str, Any]:
    for split in value:
        if split not in SPLITS:
            raise ValueError(f"unknown split '{shortened(split)}', expected train, val or test")
    return value


FilePath = Annotated[str, AfterValidator(_plain_path)]
Shares = Annotated[dict[str, Annotated[float, Field(ge=0, le=1)]], AfterValidator(_by_split)]


class ModelFactory(_Section):
    """``open_clip:ViT-B-32``, or Python of the user's (``package.module:callable``, ``file.py:callable``)."""

    factory: str
    arguments: dict[str, Any] = {}

    @field_validator("factory")
    @classmethod
    def _known_kind(cls, value: str) -> str:
        check_factory(value)
        return value


class TaskFile(_Section):
    """Where a task's head and data lie, and the accuracies that normalize."""

    head: FilePath
    """A checkpoint with one 2-D tensor [classes, features]; rows are used as they are."""
    data: Annotated[dict[str, FilePath], AfterValidator(_by_split)]
    """Split to a safetensors file (``images`` [n, c, h, w] as the model takes them, ``labels`` [n]), or
    ``hf://datasets/org/name[/configuration]#split`` (columns ``image`` and ``label``)."""
    expert_accuracy: Shares = {}
    pretrained_accuracy: Shares = {}


class SuiteFile(_Section):
    """The whole file."""

    model: ModelFactory
    tasks: dict[str, TaskFile] = Field(min_length=1)

    @field_validator("tasks")
    @classmethod
    def _named(cls, value: dict[str, TaskFile]) -> dict[str, TaskFile]:
        for name in value:
            if not _NAME.fullmatch(name):
                raise ValueError(f"expected a name without brackets, found '{shortened(name)}'")
        return value


def read_suite_file(path: Path) -> tuple[SuiteFile, SourceMap]:
    """The content of a suite file, and where it stands; ``EvalError`` with every mistake and its place."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise EvalError(f"{path}: no such suite ({reason}); expected zoo://glyphs or a suite file") from error
    return _read(path, (found.st_mtime_ns, found.st_size, found.st_ino, found.st_ctime_ns))


@lru_cache(maxsize=16)
def _read(path: Path, signature: tuple[int, ...]) -> tuple[SuiteFile, SourceMap]:
    """As ``read_suite_file``; a file that has not changed is read once."""
    try:
        data, source_map = parse_yaml(read_text(path, what="suite"), str(path), "suite")
    except RecipeError as error:
        raise EvalError(str(error)) from error
    if not isinstance(data, Mapping):
        raise EvalError(str(source_map.value(()).diagnostic("expected a suite, a map with 'model' and 'tasks'")))
    data = unspelled(data)
    content, complaints = validated(SuiteFile, data, data)
    if content is None:
        diagnostics = sorted({_diagnostic(source_map, complaint) for complaint in complaints})
        raise EvalError("\n".join(str(diagnostic) for diagnostic in diagnostics))
    return content, source_map


def _diagnostic(source_map: SourceMap, complaint: Complaint) -> Diagnostic:
    location = source_map.key(complaint.path) if complaint.at_key else source_map.value(complaint.path)
    led = bool(complaint.path) and not complaint.at_key
    return location.diagnostic(f"'{spoken(complaint.path)}': {complaint.message}" if led else complaint.message)
