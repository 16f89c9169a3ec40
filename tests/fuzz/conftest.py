"""Fuzz tests draw their inputs from a seed; ``LINES_FUZZ_SCALE`` multiplies how many there are (default 1)."""

from __future__ import annotations

import os
from collections.abc import Callable
from random import Random

import pytest


@pytest.fixture
def fuzz_count() -> Callable[[int], int]:
    """How many inputs to try where ``base`` are tried by default."""
    return lambda base: max(1, round(base * float(os.environ.get("LINES_FUZZ_SCALE", "1"))))


@pytest.fixture
def random_source(request: pytest.FixtureRequest) -> Random:
    """Draws the same inputs in every run, others in every test."""
    return Random(f"lines-pipeline {request.node.name}")
