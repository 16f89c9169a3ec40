"""Parameters of tests that ``make test`` leaves to ``make test-all``."""

from __future__ import annotations

from typing import Any

import pytest


def thorough(*values: Any) -> Any:
    """Mark a set of parameters: others of the test stand for it in ``make test``."""
    return pytest.param(*values, marks=pytest.mark.thorough)
