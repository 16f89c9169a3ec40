"""Lists the kinds of suite files: those of this package, and those that other installed packages add."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint

from lines_pipeline.core.entry_points import SUITES, PluginEntry, entry_points_of

DEFAULT = "classification"
_OWN = {
    DEFAULT: "lines_pipeline.suites.classification:ClassificationSuite",
    "python": "lines_pipeline.suites.python_function:FunctionSuite",
    "text-classification": "lines_pipeline.suites.text_classification:TextClassificationSuite",
}


def suite_kinds() -> Mapping[str, PluginEntry]:
    """Return every kind by its name in ``kind:``, sorted; those of this package cannot be replaced. Imports nothing."""
    own = {name: PluginEntry(SUITES, name, (EntryPoint(name, value, SUITES),)) for name, value in _OWN.items()}
    return dict(sorted({**entry_points_of(SUITES), **own}.items()))
