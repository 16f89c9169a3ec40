"""Same inputs, same bytes: whatever the scheduler, the number of workers, the tiles, and what the cache holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TIES_LINES
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.core.events import Event, StageStarted
from lines_pipeline.ops.testing.cluster import local_cluster
from lines_pipeline.planner import tasks

Recipe = Callable[..., Path]


def merged_bytes(recipe: Path, out: Path, **options: Any) -> bytes:
    """The saved file of a run that remembers nothing."""
    return lines_pipeline.run(recipe, out=out, cache=False, **options).files[0].read_bytes()


@pytest.fixture
def large_models(models: Path) -> Path:
    """One tensor of several blocks, so that tiles split it."""
    generator = torch.Generator().manual_seed(7)
    for name in ("base", "a", "b", "c"):
        state = load_file(models / f"{name}.safetensors")
        state["wide.weight"] = torch.randn(5, 70_001, generator=generator)
        save_file(state, models / f"{name}.safetensors")
    return models


@pytest.mark.parametrize("options", [{"workers": 1}, {"workers": 2}, {"workers": 4}])
def test_threads_and_serial_give_the_same_bytes(
    options: dict[str, int], large_models: Path, write_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(TIES_LINES)
    expected = merged_bytes(recipe, Path("serial"), scheduler="serial")
    for task_bytes in (2**19, 2**22):
        monkeypatch.setattr(tasks, "MIN_TASK_BYTES", task_bytes)
        monkeypatch.setattr(tasks, "MAX_TASK_BYTES", task_bytes)
        assert merged_bytes(recipe, Path(f"threads{task_bytes}"), **options) == expected


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a real cluster of two worker processes on loopback."""
    with local_cluster() as local:
        yield local.scheduler_address


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_gives_the_same_bytes(cluster: str, large_models: Path, write_recipe: Recipe) -> None:
    recipe = write_recipe(TIES_LINES)
    expected = merged_bytes(recipe, Path("serial"), scheduler="serial")
    assert merged_bytes(recipe, Path("cluster"), scheduler=cluster) == expected


def test_the_order_of_nodes_and_tensors_means_nothing(models: Path, write_recipe: Recipe) -> None:
    expected = merged_bytes(write_recipe(TIES_LINES), Path("one"))
    for name in ("base", "a", "b", "c"):
        state = load_file(models / f"{name}.safetensors")
        torch.save(dict(reversed(state.items())), models / f"{name}.pt")
        (models / f"{name}.safetensors").unlink()
    recipe = write_recipe(dict(reversed(list(TIES_LINES.items()))))
    recipe.write_text(recipe.read_text().replace(".safetensors", ".pt").replace("model.pt", "model.safetensors"))
    other = merged_bytes(recipe, Path("two"))
    assert load_equal(expected, other)


def load_equal(first: bytes, second: bytes) -> bool:
    """Equal tensors, whatever the headers say of the recipe."""
    from safetensors.torch import load

    left, right = load(first), load(second)
    return set(left) == set(right) and all(torch.equal(left[name], right[name]) for name in left)


def passes_of(recipe: Path, **options: Any) -> list[StageStarted]:
    """The sweeps that a run made."""
    events: list[Event] = []
    lines_pipeline.run(recipe, out="out", sinks=[events.append], **options)
    return [event for event in events if isinstance(event, StageStarted)]


def test_a_second_run_reads_nothing(write_recipe: Recipe) -> None:
    recipe = write_recipe(TIES_LINES)
    assert len(passes_of(recipe)) == 3
    written = Path("out/model.safetensors").read_bytes()
    assert passes_of(recipe) == []
    Path("out/model.safetensors").unlink()
    passes_of(recipe)
    assert Path("out/model.safetensors").read_bytes() == written


def test_another_beta_needs_no_statistics_again(write_recipe: Recipe) -> None:
    recipe = write_recipe(TIES_LINES)
    passes_of(recipe)
    assert len(passes_of(recipe, sets={"nodes.scaled.beta": 0.25})) == 1


def test_an_input_that_changed_is_read_again(models: Path, write_recipe: Recipe) -> None:
    recipe = write_recipe(TIES_LINES)
    passes_of(recipe)
    state = load_file(models / "a.safetensors")
    state["visual.proj"] = state["visual.proj"] * 2
    save_file(state, models / "a.safetensors")
    assert len(passes_of(recipe)) == 3
