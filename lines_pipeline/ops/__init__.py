"""Merge methods, one small file each; ``registry`` finds them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache

from lines_pipeline.ops.base import AnyOp, Op

__all__ = ["registry"]


@cache
def registry() -> dict[str, AnyOp]:
    """Every op by its YAML name, sorted."""
    found: dict[str, AnyOp] = {}
    for module_info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        for _, member in inspect.getmembers(module, inspect.isclass):
            if issubclass(member, Op) and member.__module__ == module.__name__ and "name" in vars(member):
                found[member.name] = member()
    return dict(sorted(found.items()))
