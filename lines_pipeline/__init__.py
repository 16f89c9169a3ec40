"""Merge fine-tuned models from version-controlled YAML recipes, tensor by tensor, in bounded memory."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lines_pipeline.core.diagnostics import Diagnostic
from lines_pipeline.core.errors import (
    CheckpointError,
    EngineError,
    EvalError,
    LinesError,
    PlanError,
    RecipeError,
    TrackingError,
)

if TYPE_CHECKING:
    from lines_pipeline.api import plan, run, validate
    from lines_pipeline.core.events import Event, Sink
    from lines_pipeline.planner.explain import Explanation
    from lines_pipeline.recipe.load import load_recipe
    from lines_pipeline.recipe.recipe import Recipe
    from lines_pipeline.results import RunResult, Validation
    from lines_pipeline.workflow.options import RunOptions

__version__ = "0.1.0"
__all__ = [
    "CheckpointError",
    "Diagnostic",
    "EngineError",
    "EvalError",
    "Event",
    "Explanation",
    "LinesError",
    "PlanError",
    "Recipe",
    "RecipeError",
    "RunOptions",
    "RunResult",
    "Sink",
    "TrackingError",
    "Validation",
    "__version__",
    "load_recipe",
    "plan",
    "run",
    "validate",
]

_MODULES = {
    "Event": "core.events",
    "Explanation": "planner.explain",
    "Recipe": "recipe.recipe",
    "RunOptions": "workflow.options",
    "RunResult": "results",
    "Sink": "core.events",
    "Validation": "results",
    "load_recipe": "recipe.load",
    "plan": "api",
    "run": "api",
    "validate": "api",
}
"""Where the names are that are imported on first use: ``lines-pipeline --help`` loads neither torch nor MLflow."""

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name == "api":
        return import_module("lines_pipeline.api")
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, those included that are not imported yet."""
    return [*globals(), *_MODULES]
