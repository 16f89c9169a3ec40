"""Compiled merges give the bytes and facts of merges by the interpreter."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TIES_LINES
from merge_methods import METHODS
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.executor.compiled_tasks import CompiledBlock

pytest.importorskip("numba")

Recipe = Callable[..., Path]


@pytest.fixture(params=["float32", "bfloat16", "float16", "float64"])
def wide_models(request: pytest.FixtureRequest, models: Path) -> Path:
    """Models of one type, with a tensor of several blocks; equal magnitudes and zeros occur."""
    generator = torch.Generator().manual_seed(7)
    for name in ("base", "a", "b", "c"):
        state = load_file(models / f"{name}.safetensors")
        state["wide.weight"] = (torch.randn(3, 70_001, generator=generator) * 8).round() / 8
        state["wide.weight"][0, :4096] *= 2.0 ** -torch.arange(4096).remainder(30)  # subnormal ones of float16 too
        kept = {n: v.to(getattr(torch, request.param)) if v.is_floating_point() else v for n, v in state.items()}
        save_file(kept, models / f"{name}.safetensors")
    return models


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, shared_store: str) -> Callable[..., tuple[Any, dict[str, bytes]]]:
    """Runs a recipe compiled or interpreted: its facts, and the bytes of its files."""

    def run(recipe: Path, *, compiled: bool) -> tuple[Any, dict[str, bytes]]:
        texts: list[str] = []
        original = CompiledBlock.__init__

        def counted(self: Any, *args: Any) -> None:
            texts.append(args[1][0])
            original(self, *args)

        monkeypatch.setattr(CompiledBlock, "__init__", counted)
        sets = {"engine.compile": "always" if compiled else "never"}
        result = lines_pipeline.run(recipe, out=Path("compiled" if compiled else "interpreted"), cache=False, sets=sets)
        monkeypatch.setattr(CompiledBlock, "__init__", original)
        assert bool(texts) == compiled
        return result.facts, {path.name: path.read_bytes() for path in result.files}

    return run


@pytest.fixture
def forget(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Gives the next run a cache of its own: inputs are hashed again."""
    return lambda name: monkeypatch.setenv("XDG_CACHE_HOME", str(Path(name).resolve()))


def learnt() -> set[str]:
    """Digests of inputs in the cache that the environment names."""
    entries = Path(os.environ["XDG_CACHE_HOME"]).rglob("digests/*.json")
    digests = {json.loads(path.read_text())["result"]["digest"] for path in entries}
    assert len(digests) == 4
    return digests


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_compiling_changes_no_byte(
    method: str, wide_models: Path, write_recipe: Recipe, runs: Callable[..., Any], forget: Callable[[str], None]
) -> None:
    recipe = write_recipe(METHODS[method])
    plain = runs(recipe, compiled=False)
    digests = learnt()
    forget("other-cache")
    assert runs(recipe, compiled=True) == plain
    assert learnt() == digests


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("base_too", [True, False])
def test_float8_gives_the_same_where_others_are_compiled(
    dtype: torch.dtype,
    base_too: bool,
    models: Path,
    write_recipe: Recipe,
    runs: Callable[..., Any],
    forget: Callable[[str], None],
) -> None:
    for name in ("base", "a", "b", "c") if base_too else ("a", "b", "c"):
        state = load_file(models / f"{name}.safetensors")
        kept = {n: v.to(dtype) if n.startswith("visual") else v for n, v in state.items()}
        save_file(kept, models / f"{name}.safetensors")
    recipe = write_recipe(METHODS["arithmetic"])
    plain = runs(recipe, compiled=False)
    digests = learnt()
    forget("other-cache")
    assert runs(recipe, compiled=True) == plain
    assert learnt() == digests


def test_values_that_are_not_finite_are_resolved_as_by_the_interpreter(
    models: Path, write_recipe: Recipe, runs: Callable[..., Any], forget: Callable[[str], None]
) -> None:
    for name in ("base", "a", "b", "c"):
        state = load_file(models / f"{name}.safetensors")
        state["visual.proj"][3, 2:5] = torch.tensor([float("nan"), float("inf"), -float("inf")])
        save_file(state, models / f"{name}.safetensors")
    recipe = write_recipe(TIES_LINES)
    plain = runs(recipe, compiled=False)
    forget("other-cache")
    assert runs(recipe, compiled=True) == plain
    state["visual.proj"][0, 0] = float("nan")
    save_file(state, models / "c.safetensors")
    with pytest.raises(CheckpointError, match=r"c\.safetensors.*visual\.proj.*NaN"):
        runs(recipe, compiled=True)


def test_models_that_cancel_out_are_elected_under_every_hypothesis(
    models: Path, write_recipe: Recipe, runs: Callable[..., Any]
) -> None:
    base = load_file(models / "base.safetensors")
    for name, sign in (("a", 1.0), ("b", -1.0), ("c", 0.0)):
        moved = {n: v + sign * torch.ones_like(v) if v.is_floating_point() else v for n, v in base.items()}
        save_file({n: v.clone() for n, v in moved.items()}, models / f"{name}.safetensors")
    for aggregate in ("mean", "max"):
        nodes = {**TIES_LINES, "merged": {**TIES_LINES["merged"], "aggregate": aggregate, "density": 1.0}}
        recipe = write_recipe(nodes)
        assert runs(recipe, compiled=True) == runs(recipe, compiled=False)
