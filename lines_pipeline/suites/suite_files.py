"""Reads a suite file: YAML as safely as a recipe's, all mistakes at once, each with its place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from lines_pipeline.core.diagnostics import FieldPath, in_file_order
from lines_pipeline.core.errors import EvalError, RecipeError, did_you_mean
from lines_pipeline.core.printable import shortened
from lines_pipeline.core.scalars import unspelled
from lines_pipeline.core.types import SPLITS
from lines_pipeline.recipe.binding.validation import validated
from lines_pipeline.recipe.syntax.source_map import SourceMap, led_by_path
from lines_pipeline.recipe.syntax.yaml_source import parse_yaml, read_text
from lines_pipeline.suites.factories import check_factory
from lines_pipeline.suites.kinds import DEFAULT, suite_kinds

_NAME = re.compile(r"[^\[\]{}\x00-\x1f\x7f]{1,200}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Section(BaseModel):
    """Declares a part of a suite file: frozen, strict, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _plain_path(value: str) -> str:
    if not value or _CONTROL.search(value):
        raise ValueError(f"expected a path or URL, found '{shortened(value)}'")
    return value


def by_split(value: dict[str, Any]) -> dict[str, Any]:
    """Return the map; ValueError for a key that is no split."""
    for split in value:
        if split not in SPLITS:
            raise ValueError(f"unknown split '{shortened(split)}', expected one of {', '.join(SPLITS)}")
    return value


def named_tasks(value: Any) -> Any:
    """Return the tasks, a map or a list; ValueError for a name that metrics and members cannot have."""
    for name in value:
        if not _NAME.fullmatch(name):
            raise ValueError(f"expected a name without brackets, found '{shortened(name)}'")
    return value


FilePath = Annotated[str, AfterValidator(_plain_path)]
Shares = Annotated[dict[str, Annotated[float, Field(ge=0, le=1)]], AfterValidator(by_split)]
Figures = Annotated[dict[str, dict[str, float]], AfterValidator(by_split)]
"""Split, then metric, to a figure that normalizes."""


class ModelFactory(Section):
    """``open_clip:ViT-B-32``, or Python of the user's (``package.module:callable``, ``file.py:callable``)."""

    factory: str
    arguments: dict[str, Any] = {}

    @field_validator("factory")
    @classmethod
    def _known_kind(cls, value: str) -> str:
        check_factory(value)
        return value


Content = TypeVar("Content", bound=BaseModel)


@dataclass(frozen=True)
class SuiteDocument:
    """Holds the values of a suite file, and their spots."""

    path: Path
    kind: str
    data: Mapping[str, Any] = field(repr=False, compare=False)
    """Without ``kind``."""
    source_map: SourceMap = field(repr=False, compare=False)
    _validated: dict[type[BaseModel], BaseModel] = field(default_factory=dict, repr=False, compare=False)

    def read_as(self, model: type[Content]) -> Content:
        """Return the content, checked against a pydantic model; ``EvalError`` with every mistake and its place."""
        if model not in self._validated:
            content, diagnostics = validated(model, self.data, self.data)
            if content is None:
                located = [led_by_path(self.source_map.locate(diagnostic)) for diagnostic in diagnostics]
                raise EvalError("\n".join(map(str, in_file_order(located))))
            self._validated[model] = content
        kept = self._validated[model]
        assert isinstance(kept, model)
        return kept

    def error(self, field: FieldPath, message: str, *, at_key: bool = False) -> EvalError:
        """Return an error at a field of the file."""
        location = self.source_map.key(field) if at_key else self.source_map.value(field)
        return EvalError(str(location.diagnostic(message)))


def read_document(path: Path) -> SuiteDocument:
    """Return the content of a suite file, and its spots; ``EvalError`` with every mistake and its place."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise EvalError(f"{path}: no such suite ({reason}); expected zoo://glyphs or a suite file") from error
    return _read(path, (status.st_mtime_ns, status.st_size, status.st_ino, status.st_ctime_ns))


@lru_cache(maxsize=16)
def _read(path: Path, signature: tuple[int, ...]) -> SuiteDocument:
    """Read a document as ``read_document`` does; a file that has not changed is read once."""
    try:
        data, source_map = parse_yaml(read_text(path, what="suite"), str(path), "suite")
    except RecipeError as error:
        raise EvalError(str(error)) from error
    if not isinstance(data, Mapping):
        raise EvalError(str(source_map.value(()).diagnostic("expected a suite, a map with 'model' and 'tasks'")))
    data = unspelled(data)
    kind = data.get("kind", DEFAULT)
    if kind not in (kinds := suite_kinds()):
        near = did_you_mean(str(kind), kinds)
        message = f"unknown kind of suite '{shortened(str(kind))}'{near}; expected one of: {', '.join(kinds)}"
        raise EvalError(str(source_map.value(("kind",)).diagnostic(message)))
    return SuiteDocument(path, kind, {key: value for key, value in data.items() if key != "kind"}, source_map)
