"""The kinds of suite files: those of this package, and those that other installed packages add."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points

GROUP = "lines_pipeline.suites"
"""The entry points by which a package adds kinds: ``my-kind = "my_package.suites:MySuite"``."""
DEFAULT = "classification"
_OWN = {
    DEFAULT: "lines_pipeline.suites.classification:ClassificationSuite",
    "python": "lines_pipeline.suites.python_function:FunctionSuite",
}


def suite_kinds() -> Mapping[str, EntryPoint]:
    """Every kind by its name in ``kind:``, sorted; those of this package cannot be replaced."""
    found = {one.name: one for one in entry_points(group=GROUP)}
    found |= {name: EntryPoint(name, value, GROUP) for name, value in _OWN.items()}
    return dict(sorted(found.items()))
