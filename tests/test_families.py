"""Layouts of many families: written by transformers, merged, opened there again, and computed anew in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from io_layouts import expected_places
from safetensors.torch import load_file
from tiny_models import FAMILIES, Family

import lines_pipeline

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

ALPHA, BETA, WEIGHTS = 0.25, 0.5, {"one": 0.75, "two": -0.5}


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model folder, of whatever number of shards."""
    return {name: value for path in sorted(folder.glob("*.safetensors")) for name, value in load_file(path).items()}


def disturb(model: torch.nn.Module, seed: int) -> None:
    """Add noise to every floating-point tensor, and ``seed`` to every integer one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            if value.is_floating_point():
                value += (0.01 * torch.randn(value.shape, generator=generator)).to(value.dtype)
            elif value.dtype is not torch.bool:
                value += seed


def write_models(family: Family, folder: Path, dtype: torch.dtype, **saved: Any) -> None:
    """A base, and two experts that differ from it in every tensor."""
    for seed, name in enumerate(("base", *WEIGHTS)):
        model = family.make(0).to(dtype)
        if seed:
            disturb(model, seed)
        model.save_pretrained(folder / name, **saved)


def merge(family: Family, folder: Path) -> Path:
    """The folder of a merge of both experts whose updates are scaled block by block, where the family has blocks."""
    scaled = (
        {"scaled": {"op": "lines-scale", "delta": "updates", "alpha": ALPHA, "beta": BETA}} if family.towers else {}
    )
    nodes = {
        "base": {"op": "load", "path": "base"},
        "experts": {"op": "load", "path": "{e}", "for_each": {"e": list(WEIGHTS)}},
        "updates": {"op": "task-vector", "base": "base", "model": "experts"},
        **scaled,
        "merged": {"op": "task-arithmetic", "deltas": "scaled" if scaled else "updates", "weights": WEIGHTS},
        "model": {"op": "apply", "base": "base", "delta": "merged"},
        "saved": {"op": "save", "model": "model", "path": "merged/"},
        "halved": {"op": "save", "model": "model", "path": "halved/", "dtype": "bfloat16", "max_shard_size": "4kB"},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"name": "family", "nodes": nodes}))
    lines_pipeline.run(folder / "recipe.yaml", out=folder / "out", tracking=False, cache=False)
    return folder / "out"


def expected_tensors(family: Family, folder: Path) -> dict[str, torch.Tensor]:
    """The same merge by its formula, in float64; what is no floating-point tensor stays as the base has it."""
    base, experts = tensors(folder / "base"), {name: tensors(folder / name) for name in WEIGHTS}
    places, expected = expected_places(base, family.towers), {}
    for name, start in base.items():
        if not start.is_floating_point():
            expected[name] = start
            continue
        scale = ALPHA if family.towers else 1.0
        if name in places:
            _, index, depth = places[name]
            scale += BETA * index / (depth - 1)
        start = start.double()
        updates = [weight * (experts[key][name].double() - start) for key, weight in WEIGHTS.items()]
        expected[name] = start + scale * sum(updates)
    return expected


def require_equal(tensors: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    """The same names, and values as near as ``dtype`` can hold."""
    assert tensors.keys() == expected.keys()
    near = 2e-6 if dtype == torch.float32 else 1.001 * 2.0**-8
    for name, value in expected.items():
        torch.testing.assert_close(tensors[name].to(value.dtype), value, rtol=near, atol=1e-7, msg=name)


def require_merge(name: str, folder: Path, dtype: torch.dtype = torch.float32, **saved: Any) -> Any:
    """Merge models of a family; what is in the folders, and what a model has that opened them, is as computed here."""
    family = FAMILIES[name]
    write_models(family, folder, dtype, **saved)
    expected, out = expected_tensors(family, folder), merge(family, folder)
    assert len(list((out / "halved").glob("*-of-*.safetensors"))) > 1
    for place, stored in (("halved", torch.bfloat16), ("merged", dtype)):
        written = tensors(out / place)
        assert {value.dtype for value in written.values() if value.is_floating_point()} == {stored}
        require_equal(written, expected, stored)
        loaded, loading = family.kind.from_pretrained(out / place, output_loading_info=True)
        assert loaded.config.dtype == stored and not any(loading.values()), loading
        loaded.save_pretrained(folder / f"{place} again")
        require_equal(tensors(folder / f"{place} again"), expected, stored)
    return loaded


@pytest.mark.parametrize("family", FAMILIES)
def test_a_merge_of_a_family_is_as_computed_and_opens_again(family: str, tmp_path: Path) -> None:
    require_merge(family, tmp_path)


@pytest.mark.parametrize("family", ["llama", "bart", "mixtral", "segformer"])
def test_models_in_shards(family: str, tmp_path: Path) -> None:
    require_merge(family, tmp_path, max_shard_size="10kB")
    assert len(list((tmp_path / "base").glob("*-of-*.safetensors"))) > 1


@pytest.mark.parametrize("family", ["mistral", "whisper", "qwen2-vl"])
def test_models_in_half_precision(family: str, tmp_path: Path) -> None:
    require_merge(family, tmp_path, torch.bfloat16)


@pytest.mark.parametrize("family", ["gpt2", "llama-tied", "gemma2"])
def test_tied_embeddings_are_tied_again(family: str, tmp_path: Path) -> None:
    loaded = require_merge(family, tmp_path)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
