"""Published heads are turned into tensors without running what their pickles hold."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "recipes" / "suites" / "convert_heads.py"


class ClassificationHead(torch.nn.Linear):
    """Pickled as the publishers pickle theirs."""


class Hostile:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


@pytest.fixture
def converter() -> ModuleType:
    spec = importlib.util.spec_from_file_location("convert_heads", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def saved_head(path: Path, monkeypatch: pytest.MonkeyPatch, bias: float = 0.0) -> torch.Tensor:
    published = ModuleType("published_modeling")
    published.ClassificationHead = ClassificationHead  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "published_modeling", published)
    monkeypatch.setattr(ClassificationHead, "__module__", "published_modeling")
    head = ClassificationHead(4, 3)
    torch.nn.init.constant_(head.bias, bias)
    torch.save(head, path)
    return head.weight.detach()


def test_the_weight_of_a_pickled_head_is_found(
    converter: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = saved_head(tmp_path / "head.pt", monkeypatch)
    assert torch.equal(converter.head_weight(tmp_path / "head.pt"), expected)


def test_a_head_with_a_bias_is_refused(converter: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved_head(tmp_path / "head.pt", monkeypatch, bias=1.0)
    with pytest.raises(ValueError, match="has a bias"):
        converter.head_weight(tmp_path / "head.pt")


def test_other_code_is_refused(converter: ModuleType, tmp_path: Path) -> None:
    torch.save(Hostile(), tmp_path / "head.pt")
    with pytest.raises(Exception, match="has no place in a head"):
        converter.head_weight(tmp_path / "head.pt")
