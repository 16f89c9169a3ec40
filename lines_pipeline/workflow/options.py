"""What a caller asks for beside the recipe; where nothing is asked for, the recipe's own settings hold."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Unpack

UseCase = TypeVar("UseCase", bound=Callable[..., Any])


class RunKeywords(TypedDict, total=False):
    """The fields of ``RunOptions`` as keyword arguments of ``run``, ``plan`` and ``validate``."""

    out: str | Path | None
    sets: Mapping[str, Any] | None
    scheduler: str | None
    workers: int | None
    memory: str | int | None
    device: str | None
    tune: bool
    cache: bool
    trust: bool
    tracking_uri: str | None
    tracking: bool


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How to carry out a recipe. ``plan`` and ``validate`` take the same options, and use those that matter to them."""

    out: str | Path | None = None
    """Where the results go: a folder, or the URL of an object store; None is ``runs/<name>``."""
    sets: Mapping[str, Any] | None = None
    """Values in place of the recipe's own, by path: ``{"nodes.scaled.beta": 0.4}``."""
    scheduler: str | None = None
    """``threads``, ``serial``, or the address of a Dask scheduler."""
    workers: int | None = None
    """How many tasks are carried out at a time."""
    memory: str | int | None = None
    """The cap on anonymous memory: bytes, or a text such as ``4GB``. Workers wait where not all fit."""
    device: str | None = None
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    tune: bool = True
    """Whether the recipe's ``tune`` section chooses values; otherwise the values hold as written."""
    cache: bool = True
    """Whether values are looked up in the cache."""
    trust: bool = False
    """Whether the recipe may run Python that its suites name, and name other machines, wherever it lies."""
    tracking_uri: str | None = None
    """The MLflow store of the record."""
    tracking: bool = True
    """Whether MLflow keeps a record of the run."""


def merged_options(options: RunOptions | None, **keywords: Unpack[RunKeywords]) -> RunOptions:
    """Return the options with the keyword arguments in their place; TypeError for a keyword that is no option."""
    return replace(options or RunOptions(), **keywords)


def shows_options(use_case: UseCase) -> UseCase:
    """Let ``help`` and the completion of notebooks show the options of a use case in place of ``**keywords``."""
    signature = inspect.signature(use_case)
    kept = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    last = next(
        (number for number, parameter in enumerate(kept) if parameter.kind is parameter.KEYWORD_ONLY), len(kept)
    )
    options = inspect.signature(RunOptions).parameters.values()
    use_case.__signature__ = signature.replace(parameters=[*kept[:last], *options, *kept[last:]])  # type: ignore[attr-defined]
    return use_case
