"""The digest of a checkpoint is that of its content: not of the recipe that reads it, nor of the file's format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.core.errors import CheckpointError, RecipeError
from lines_pipeline.core.events import InputsIdentified

Recipe = Callable[..., Path]
SAVED = {
    "chosen": {"op": "load", "path": "a.safetensors"},
    "delta": {"op": "task-vector", "model": "chosen", "base": "base"},
    "model": {"op": "apply", "base": "base", "delta": "delta"},
    "saved": {"op": "save", "model": "model", "path": "m.safetensors"},
}


def digest(path: Path) -> str:
    return str(lines_pipeline.api.inspect(path)["digest"])


def chosen(**fields: Any) -> dict[str, Any]:
    return SAVED | {"chosen": SAVED["chosen"] | fields}


def run(recipe: Path, out: str = "out") -> dict[str, str]:
    """The digests that a run tells, by step."""
    by_name: dict[str, str] = {}
    sinks = [lambda event: by_name.update(event.digests) if isinstance(event, InputsIdentified) else None]
    lines_pipeline.run(recipe, out=out, sinks=sinks)
    return by_name


def test_inspect_tells_it_unless_only_headers_are_read(models: Path) -> None:
    torch.save(load_file(models / "a.safetensors"), models / "a.pt")
    assert digest(models / "a.pt") == digest(models / "a.safetensors") != digest(models / "b.safetensors")
    report = lines_pipeline.api.inspect(models / "a.safetensors", headers=True)
    assert "digest" not in report and all("norm" not in row for row in report["tensors"])


def test_other_contents_are_refused_before_anything_is_written(
    models: Path, write_recipe: Recipe, shared_store: str
) -> None:
    right, wrong = digest(models / "a.safetensors"), digest(models / "b.safetensors")
    with pytest.raises(CheckpointError) as caught:
        run(write_recipe(chosen(digest=wrong)))
    assert all(text in str(caught.value) for text in ("node 'chosen'", right, wrong))
    assert not Path("out").exists()
    with pytest.raises(CheckpointError, match="node 'chosen'"):  # it is known now
        lines_pipeline.validate(write_recipe(chosen(digest=wrong)))
    assert run(write_recipe(chosen(digest=right)))["chosen"] == right


def test_a_check_that_needs_the_values_is_announced(models: Path, write_recipe: Recipe) -> None:
    recipe = write_recipe(chosen(digest="0" * 64))
    assert any("'digest'" in note for note in lines_pipeline.validate(recipe).notes)
    with pytest.raises(RecipeError, match="digest"):
        lines_pipeline.validate(write_recipe(chosen(digest="sha1")))


@pytest.mark.slow
def test_runs_tell_the_same_digest_whatever_they_read_of_the_file(
    models: Path, write_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_store: str
) -> None:
    state = load_file(models / "a.safetensors")
    save_file(
        {f"model.{name}": value for name, value in state.items()} | {"head": torch.randn(3, 5)},
        models / "prefixed.safetensors",
    )
    expected = digest(models / "prefixed.safetensors")
    renamed = {"on_extra": "drop", "rename": [{"from": "ln_1", "to": "ln_1"}]}
    ways: list[dict[str, Any]] = [{"on_extra": "drop"}, renamed]
    for number, fields in enumerate(ways):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cold{number}"))
        nodes = chosen(path="prefixed.safetensors", prefix={"strip": "model."}, digest=expected, **fields)
        nodes["delta"] = nodes["delta"] | {"exclude": ["*.bias"]}
        assert run(write_recipe(nodes), f"checked{number}")["chosen"] == expected
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cold again{number}"))
        del nodes["chosen"]["digest"]
        assert run(write_recipe(nodes), f"told{number}")["chosen"] == expected


def test_dropping_the_first_name_of_a_tied_tensor_changes_no_digest(
    models: Path, write_recipe: Recipe, shared_store: str
) -> None:
    state = load_file(models / "a.safetensors")
    torch.save({**state, "a.first": state["visual.proj"]}, models / "tied.pt")
    expected = digest(models / "tied.pt")
    assert run(write_recipe(chosen(path="tied.pt", drop=["a.first"], digest=expected)))["chosen"] == expected


def test_a_packed_mask_has_the_digest_that_inspect_prints(
    models: Path, write_recipe: Recipe, shared_store: str
) -> None:
    sum_ = {"op": "task-arithmetic", "deltas": "updates"}
    kept = {"op": "magnitude-mask", "delta": "sum", "density": 0.3}
    save = {"op": "save", "model": "kept", "path": "mask.safetensors", "packed": True}
    lines_pipeline.run(write_recipe({"sum": sum_, "kept": kept, "saved": save}), out=str(models / "parts"))
    expected = digest(models / "parts" / "mask.safetensors")
    load = {"op": "load", "path": "parts/mask.safetensors", "type": "mask", "digest": expected}
    recipe = write_recipe({"kept": load, "saved": {**save, "path": "again.safetensors", "packed": False}})
    assert run(recipe)["kept"] == expected
