"""Names that a file ties to one tensor are the same tensor, whichever of them another file uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.core.errors import LinesError

pytestmark = pytest.mark.usefixtures("shared_store")

TIED = ("decoder.embed.weight", "encoder.embed.weight", "lm_head.weight", "shared.weight")


def state(seed: int, *, tied: bool = True) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(32, 8, generator=generator)
    own = {name: shared if tied else shared + index for index, name in enumerate(TIED)}
    return own | {"encoder.block.0.weight": torch.randn(8, 8, generator=generator)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Torch files with all names (``tied``, ``tied2``, ``untied``), and ``one.safetensors`` with one of them."""
    torch.save(state(0), tmp_path / "tied.bin")
    torch.save(state(1), tmp_path / "tied2.bin")
    torch.save(state(2, tied=False), tmp_path / "untied.bin")
    kept = {name: value for name, value in state(3).items() if name not in TIED[:3]}
    save_file(kept, tmp_path / "one.safetensors")
    return tmp_path


def run(folder: Path, base: str, model: str, **options: Any) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """Half of the way from ``base`` to ``model``, and what was told."""
    nodes = {
        "base": {"op": "load", "path": base},
        "expert": {"op": "load", "path": model, **options.get("load", {})},
        "update": {"op": "task-vector", "base": "base", "model": "expert"},
        "halved": {"op": "scale", "delta": "update", "by": 0.5},
        "model": {"op": "apply", "base": "base", "delta": "halved"},
        "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
    }
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"name": "tied", "nodes": nodes}))
    result = lines_pipeline.run(recipe, out="out")
    return load_file(result.files[0]), result.notes


def halfway(base: dict[str, torch.Tensor], model: dict[str, torch.Tensor], name: str, theirs: str) -> torch.Tensor:
    return (base[name] + model[theirs]) / 2


@pytest.mark.parametrize(("model", "seed"), [("one.safetensors", 3), ("tied2.bin", 1)])
def test_a_tied_base(model: str, seed: int, folder: Path) -> None:
    result, _ = run(folder, "tied.bin", model)
    assert result.keys() == state(0).keys()
    for name in state(0):
        torch.testing.assert_close(result[name], halfway(state(0), state(seed), name, name))


def test_a_base_that_names_one_and_a_tied_model(folder: Path) -> None:
    result, _ = run(folder, "one.safetensors", "tied.bin")
    assert sorted(result) == ["encoder.block.0.weight", "shared.weight"]
    for name, value in result.items():
        torch.testing.assert_close(value, halfway(state(3), state(0), name, name))


def test_an_untied_base_takes_the_shared_value_under_each_name(folder: Path) -> None:
    result, notes = run(folder, "untied.bin", "tied.bin")
    for name in TIED:
        torch.testing.assert_close(result[name], halfway(state(2, tied=False), state(0), name, "shared.weight"))
    assert any("'lm_head.weight'" in note and "tied to one tensor" in note for note in notes)


def test_an_untied_model_over_a_tied_base_is_a_choice(folder: Path) -> None:
    with pytest.raises(LinesError, match=r"'lm_head\.weight'.*of their own.*'drop'"):
        run(folder, "tied.bin", "untied.bin")
    result, notes = run(folder, "tied.bin", "untied.bin", load={"drop": [*TIED[:2], "lm_head.*"]})
    for name in TIED:
        expected = halfway(state(0), state(2, tied=False), name, "shared.weight")
        torch.testing.assert_close(result[name], expected)
    assert any("dropped" in note and "'lm_head.weight'" in note for note in notes)


def test_a_tied_name_that_is_dropped_leaves_the_others(folder: Path) -> None:
    nodes = {
        "model": {"op": "load", "path": "tied.bin", "drop": ["decoder.embed.*", "lm_head.*"]},
        "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
    }
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"name": "dropped", "nodes": nodes}))
    tensors = load_file(lines_pipeline.run(recipe, out="out").files[0])
    assert sorted(tensors) == ["encoder.block.0.weight", "encoder.embed.weight", "shared.weight"]
    assert torch.equal(tensors["encoder.embed.weight"], state(0)["shared.weight"])


def test_a_graft_of_a_head_unties_it(folder: Path) -> None:
    nodes = {
        "tied": {"op": "load", "path": "tied.bin"},
        "untied": {"op": "load", "path": "untied.bin"},
        "model": {"op": "graft", "model": "tied", "donor": "untied", "include": ["lm_head.*"]},
        "back": {"op": "graft", "model": "untied", "donor": "tied", "include": ["lm_head.*"]},
        "one": {"op": "save", "model": "model", "path": "one.safetensors"},
        "two": {"op": "save", "model": "back", "path": "two.safetensors"},
    }
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"name": "grafted", "nodes": nodes}))
    first, second = (load_file(file) for file in lines_pipeline.run(recipe, out="out").files)
    tied, untied = state(0), state(2, tied=False)
    for name in tied:
        assert torch.equal(first[name], (untied if name == "lm_head.weight" else tied)[name])
        assert torch.equal(second[name], (tied if name == "lm_head.weight" else untied)[name])


def test_a_dropped_second_name_is_told_as_such(folder: Path) -> None:
    _, notes = run(folder, "tied.bin", "tied2.bin", load={"drop": ["lm_head.*"]})
    texts = [note for note in notes if "dropped; its other name" in note]
    assert texts and "'lm_head.weight'" in texts[0] and not [note for note in notes if "in no output" in note]
