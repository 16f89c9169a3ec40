"""These tests write into the zoo's cache folder, so it is never the user's."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shared fixture spares whatever has the keyword ``zoo``, and the name of this folder is one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
