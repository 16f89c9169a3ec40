"""Merge methods, one small file each; ``registry`` finds them, and those of plug-ins."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from types import ModuleType
from typing import Any

from lines_pipeline.core.entry_points import OPS, PluginEntry, entry_points_of
from lines_pipeline.core.errors import PluginError
from lines_pipeline.core.plugins import FileOrigin, Origin, PackageOrigin
from lines_pipeline.ops.base import AnyOp, Op
from lines_pipeline.ops.function import Delta, Mask, Weights, op

__all__ = ["Delta", "Mask", "Op", "OpRegistry", "Weights", "op", "registry"]

_NO_METHODS = ("testing",)
"""Modules of this package that a merge has no use for."""


@dataclass(frozen=True)
class OpRegistry(Mapping[str, AnyOp]):
    """Ops by their YAML names, sorted. A package that offers an op is imported when the op is asked for."""

    own: Mapping[str, AnyOp]
    """The ops that come with lines-pipeline."""
    entries: Mapping[str, PluginEntry] = field(default_factory=dict)
    """What installed packages offer."""
    of_files: Mapping[str, AnyOp] = field(default_factory=dict)
    """The ops of a recipe's plug-ins."""
    _loaded: dict[str, AnyOp] = field(default_factory=dict, repr=False, compare=False)

    def __getitem__(self, name: str) -> AnyOp:
        """Return an op. Raises ``PluginError`` where a package that offers it cannot be used."""
        if name in self.of_files:
            return self.of_files[name]
        if name not in self.entries:
            return self.own[name]
        if name not in self._loaded:
            self._loaded[name] = self._of_package(self.entries[name])
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return any(name in ops for ops in (self.own, self.entries, self.of_files))

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self.own, *self.entries, *self.of_files}))

    def __len__(self) -> int:
        return len({*self.own, *self.entries, *self.of_files})

    @property
    def at_hand(self) -> dict[str, AnyOp]:
        """Return the ops that are known without importing a package."""
        return {**self.own, **self._loaded, **self.of_files}

    def with_file(self, file: FileOrigin) -> OpRegistry:
        """Return the registry with the ops of a file, which is run. Raises ``PluginError`` for names that are taken."""
        added = _ops_of_file(file)
        for name in added:
            if name in self:
                raise PluginError(f"{file} defines the op '{name}', which {self._owner(name)} has: name it otherwise")
        return replace(self, of_files={**self.of_files, **added})

    def _owner(self, name: str) -> str:
        if name in self.of_files:
            return str(self.of_files[name].origin)
        return self.entries[name].distribution if name in self.entries else "lines-pipeline"

    def _of_package(self, entry: PluginEntry) -> AnyOp:
        if entry.name in self.own:
            raise PluginError(f"{entry}: lines-pipeline has an op of this name; uninstall the package")
        offered = entry.load()
        method = _as_op(offered)
        if method is None:
            kind = getattr(offered, "__name__", type(offered).__name__)
            raise PluginError(f"{entry} gives '{kind}', expected a function under @op, or a subclass of Op")
        if method.name != entry.name:
            raise PluginError(f"{entry} gives the op '{method.name}', expected '{entry.name}': name both alike")
        return _from(method, PackageOrigin.of(entry))


def registry() -> OpRegistry:
    """Return every op that comes with lines-pipeline, or that an installed package offers."""
    return _registry(tuple(sys.path))


@lru_cache(maxsize=4)
def _registry(path: tuple[str, ...]) -> OpRegistry:
    return OpRegistry(_own_ops(), entry_points_of(OPS))


@cache
def _own_ops() -> Mapping[str, AnyOp]:
    ops: dict[str, AnyOp] = {}
    for module_info in pkgutil.iter_modules(__path__):
        if module_info.name not in _NO_METHODS:
            module = importlib.import_module(f"{__name__}.{module_info.name}")
            ops |= {method.name: method for method in _defined_in(module)}
    return ops


def _ops_of_file(file: FileOrigin) -> dict[str, AnyOp]:
    ops: dict[str, AnyOp] = {}
    for method in _defined_in(file.module()):
        if method.name in ops:
            raise PluginError(f"{file} defines the op '{method.name}' twice")
        ops[method.name] = _from(method, file)
    return ops


def _defined_in(module: ModuleType) -> list[AnyOp]:
    """Return the ops that a module itself defines."""
    members = dict.fromkeys(member for _, member in inspect.getmembers(module, _is_op))
    return [
        method for member in members if member.__module__ == module.__name__ and (method := _as_op(member)) is not None
    ]


def _is_op(member: Any) -> bool:
    return isinstance(member, Op) or (inspect.isclass(member) and issubclass(member, Op))


def _as_op(offered: Any) -> AnyOp | None:
    if isinstance(offered, Op):
        return offered
    is_method = inspect.isclass(offered) and issubclass(offered, Op) and "name" in vars(offered)
    return offered() if is_method else None


def _from(method: AnyOp, origin: Origin) -> AnyOp:
    method.origin = origin
    return method
