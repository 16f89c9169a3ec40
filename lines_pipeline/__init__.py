"""Merge fine-tuned models from version-controlled YAML recipes, tensor by tensor, in bounded memory."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lines_pipeline.core.errors import LinesError

if TYPE_CHECKING:
    from lines_pipeline.api import Explanation, RunResult, plan, run, validate

__all__ = ["Explanation", "LinesError", "RunResult", "__version__", "plan", "run", "validate"]
__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    """Import the API on first use, so that ``lines-pipeline --help`` loads neither torch nor MLflow."""
    if name == "api" or name in __all__:
        api = import_module("lines_pipeline.api")
        return api if name == "api" else getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
