"""What the cache holds changes no result: bits that flip, entries that are gone, and those of other versions."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from toy_suite import above, below, write_model, write_suite

import lines_pipeline
from lines_pipeline import api
from lines_pipeline.planner import fingerprints as keys

pytestmark = pytest.mark.usefixtures("shared_store")

OUT = Path("runs/tested")
IMAGES = (0.125, 0.375, 0.625, 0.875)


@pytest.fixture
def recipe(toy: Path) -> Path:
    """Merges by TIES, saves the result and judges it: all kinds of entries come of it but spooled files."""
    for name, weights in {"base": (0.0, 0.0), "a": (0.5, 0.25), "b": (0.75, -0.125)}.items():
        write_model(toy / f"{name}.safetensors", *weights)
    write_suite(toy, {"rise": {"val": above(*IMAGES)}, "fall": {"val": below(*IMAGES)}}, blocks=2)
    nodes = {
        "base": {"op": "load", "path": "base.safetensors"},
        "experts": {"op": "load", "path": "{e}.safetensors", "for_each": {"e": ["a", "b"]}},
        "updates": {"op": "task-vector", "model": "experts", "base": "base"},
        "merged": {"op": "ties", "deltas": "updates", "density": 0.5},
        "scaled": {"op": "lines-scale", "delta": "merged", "alpha": "auto", "deltas": "updates", "beta": 0.5},
        "model": {"op": "apply", "base": "base", "delta": "scaled"},
        "val": {"op": "evaluate", "model": "model", "suite": "suite.yaml", "split": "val"},
        "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
    }
    return written(toy, nodes)


def written(folder: Path, nodes: dict[str, Any]) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "tested", "nodes": nodes}))
    return path


def told(recipe: Path) -> tuple[Any, ...]:
    """All that a run gives."""
    result = lines_pipeline.run(recipe, scheduler="serial")
    return result.metrics, result.facts, [path.read_bytes() for path in result.files]


def files() -> list[Path]:
    """Every file of the cache's entries, also the notes beside values."""
    folder = api.cache_list().folder
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


def flip(path: Path, generator: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    path.write_bytes(content)


def need_all() -> None:
    """Take away what keeps a run from looking at values and statistics."""
    shutil.rmtree(OUT, ignore_errors=True)
    for entry in api.cache_list().entries:
        if entry.kind == "scores":
            entry.path.unlink()


@pytest.mark.parametrize("before", [lambda: None, need_all], ids=["all is there", "all is needed"])
def test_a_bit_that_flips_in_any_file_changes_nothing(before: Callable[[], None], recipe: Path) -> None:
    expected, generator = told(recipe), random.Random(0)
    assert expected[1]["merged"]["trim_thresholds"] and expected[1]["scaled"]["alpha"]
    assert {path.parent.name for path in files()} == {"scores", "digests", "files", "stats", "values"}
    for path in files():
        before()
        if path.exists():
            flip(path, generator)
            assert told(recipe) == expected, path
    api.cache_verify()  # values that nobody needed may be damaged still
    assert told(recipe) == expected
    assert api.cache_verify().entries == ()


def test_verify_finds_a_flipped_bit_in_every_file(recipe: Path) -> None:
    expected, generator = told(recipe), random.Random(1)
    for path in files():
        flip(path, generator)
        assert len(api.cache_verify().entries) == 1, path
        need_all()
        assert told(recipe) == expected
    assert api.cache_verify().entries == ()


def test_statistics_that_are_gone_are_made_again_for_what_is_reported(recipe: Path) -> None:
    expected = told(recipe)
    for entry in api.cache_list().entries:
        if entry.kind == "stats":
            entry.path.unlink()
    planned = api.plan(recipe).to_dict()
    assert planned["passes"]
    assert told(recipe) == expected
    assert api.plan(recipe).to_dict()["passes"] == []


def test_a_run_that_only_judges_tells_the_same_facts_again(recipe: Path) -> None:
    nodes = yaml.safe_load(recipe.read_text())["nodes"]
    del nodes["saved"]
    expected = told(written(recipe.parent, nodes))
    assert expected[1]["merged"]
    assert told(recipe) == expected


def test_entries_of_another_version_are_not_used(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier version kept may be wrong."""
    expected = told(recipe)
    shutil.rmtree(OUT)
    with monkeypatch.context() as earlier:
        earlier.setattr(keys, "CACHE_VERSION", keys.CACHE_VERSION - 1)
        told(recipe)
    for path in [*files(), OUT / "model.safetensors"]:
        if path.parent.name in ("values", OUT.name) and path.suffix == ".safetensors":
            state = load_file(path)
            save_file({name: value + 1 for name, value in state.items()}, path)
    assert told(recipe) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_merged_further_is_never_a_rounded_value(dtype: torch.dtype, toy: Path) -> None:
    """A model that is judged lies in the cache in its stored type."""
    generator = torch.Generator().manual_seed(0)
    for name in ("base", "a", "b"):
        save_file({"blocks.0.weight": torch.randn(1, 1, generator=generator).to(dtype)}, toy / f"{name}.safetensors")
    write_suite(toy, {"rise": {"val": above(*IMAGES)}})
    nodes: dict[str, Any] = {name: {"op": "load", "path": f"{name}.safetensors"} for name in ("base", "a", "b")}
    nodes |= {
        "soup": {"op": "soup", "models": ["base", "a", "b"]},
        "val": {"op": "evaluate", "model": "soup", "suite": "suite.yaml", "split": "val"},
        "update": {"op": "task-vector", "model": "soup", "base": "base"},
        "merged": {"op": "ties", "deltas": ["update"]},
        "saved": {"op": "save", "model": "merged", "path": "model.safetensors"},
    }
    recipe = written(toy, nodes)
    expected = told(recipe)
    for kind in ("files", "stats"):
        for entry in api.cache_list().entries:
            if entry.kind == kind:
                entry.path.unlink()
        assert told(recipe) == expected


def test_contents_that_change_behind_the_modification_time_are_noticed(recipe: Path) -> None:
    """As where a file of equal size is copied over another with its time, or set back."""
    told(recipe)
    models = recipe.parent
    for victim, source in ((models / "a.safetensors", models / "b.safetensors"), (OUT / "model.safetensors", None)):
        status = victim.stat()
        content = source.read_bytes() if source else bytes(len(victim.read_bytes()))
        with victim.open("r+b") as file:
            file.write(content)
        os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))
        notes_told = told(recipe)
        shutil.rmtree("cache")
        shutil.rmtree(OUT)
        assert told(recipe) == notes_told
