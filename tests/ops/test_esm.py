"""``esm``: principal directions of what updates do to the outputs of layers, from inputs that files hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from layer_suite import Node, State, given, saved, write_layer_suite
from safetensors.torch import save_file

from lines_pipeline.core.errors import LinesError


def merge(folder: Path, updates: list[State], inputs: list[State], **own: Any) -> State:
    """The merged update of models that differ so from a base of ones."""
    base = {name: torch.ones_like(value) for name, value in updates[0].items()}
    save_file(base, folder / "base.safetensors")
    models = [{name: base[name] + value for name, value in update.items()} for update in updates]
    nodes = given(folder, models, inputs)
    nodes["base"] = {"op": "load", "path": "base.safetensors"}
    nodes["merged"] = {"op": "esm", "models": "models", "base": "base", "statistics": "measured", **own}
    return saved(folder, nodes, "merged")


def diagonal(*values: float) -> torch.Tensor:
    return torch.tensor(values).diag()


ROWS = {"layer.weight": torch.eye(2)}


@pytest.mark.parametrize(("power", "expected"), [(2.0, 4.0), (0.0, 3.0)])
def test_one_task_by_hand(power: float, expected: float, tmp_path: Path) -> None:
    """Columns of length 2 and 1 times (4/3)^2 and (2/3)^2: of the values 32/9 and 4/9 the mean is 2, doubled 4."""
    own = {"power": power, "eigenvalue_power": 0.0}
    tensors = merge(tmp_path, [{"layer.weight": diagonal(2.0, 1.0)}], [ROWS], **own)
    torch.testing.assert_close(tensors["layer.weight"], expected * torch.eye(2))


def test_layers_are_scaled_by_their_norm_over_that_of_their_kind(tmp_path: Path) -> None:
    """Alone they are 4 and 2 times the identity; the norm is then 4/3 and 2/3 of their mean."""
    update = {"blocks.0.weight": diagonal(2.0, 1.0), "blocks.1.weight": diagonal(1.0, 0.5)}
    tensors = merge(tmp_path, [update], [{name: torch.eye(2) for name in update}], eigenvalue_power=0.0)
    torch.testing.assert_close(tensors["blocks.0.weight"], torch.eye(2) * 64 / 9)
    torch.testing.assert_close(tensors["blocks.1.weight"], torch.eye(2) * 8 / 9)


def drawn(seed: int) -> tuple[list[State], list[State]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"blocks.0.weight": (6, 4), "blocks.1.weight": (6, 4), "other.weight": (5, 6), "bias": (3,)}
    updates = [{n: torch.randn(shape, generator=generator) for n, shape in shapes.items()} for _ in range(3)]
    inputs = [{f"blocks.{b}.weight": torch.randn(20, 4, generator=generator) for b in range(2)} for _ in range(3)]
    return updates, inputs


@pytest.mark.parametrize("seed", [1, 2])
def test_laws(seed: int, tmp_path: Path) -> None:
    updates, inputs = drawn(seed)
    tensors = merge(tmp_path, updates, inputs)
    turned = merge(tmp_path, updates[::-1], inputs[::-1])
    larger = merge(tmp_path, [{n: 4 * v for n, v in update.items()} for update in updates], inputs)
    for name, value in tensors.items():
        torch.testing.assert_close(turned[name], value, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(larger[name], 4 * value, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tensors["bias"], sum(update["bias"] for update in updates) / 3, rtol=1e-5, atol=1e-6)


def test_no_update_gives_none_and_a_task_without_one_has_no_part(tmp_path: Path) -> None:
    updates, inputs = drawn(0)
    still = {name: torch.zeros_like(value) for name, value in updates[0].items()}
    assert not any(value.any() for value in merge(tmp_path, [still] * 3, inputs).values())
    tensors = merge(tmp_path, [updates[0], still], inputs[:2])
    assert all(bool(value.isfinite().all()) for value in tensors.values()) and tensors["blocks.0.weight"].any()
    dead = [{name: torch.zeros_like(value) for name, value in input.items()} for input in inputs]
    assert not merge(tmp_path, updates, dead)["blocks.0.weight"].any()


def test_fewer_outputs_than_tasks_give_no_update(tmp_path: Path) -> None:
    updates = [{"layer.weight": torch.ones(2, 3) * number} for number in (1.0, 2.0, 3.0)]
    assert not merge(tmp_path, updates, [{"layer.weight": torch.ones(4, 3)}] * 3)["layer.weight"].any()


def test_a_weight_that_is_in_by_out_is_taken_as_its_transpose(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    updates = [{"layer.weight": torch.randn(4, 4, generator=generator)} for _ in range(2)]
    inputs = [torch.randn(9, 4, generator=generator) for _ in range(2)]
    turned = [{"layer.weight": update["layer.weight"].T.contiguous()} for update in updates]
    expected = merge(tmp_path, updates, [{"layer.weight": rows} for rows in inputs])["layer.weight"]
    tensors = merge(tmp_path, turned, [{"layer.weight.T": rows} for rows in inputs])["layer.weight"]
    torch.testing.assert_close(tensors.T, expected, rtol=1e-4, atol=1e-5)


def test_inputs_that_a_suite_gives(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(10, 2, generator=generator)
    write_layer_suite(tmp_path, "Blocks", rows, rows.flip(0))
    names = [f"blocks.{block}.weight" for block in range(2)]
    models = [{name: torch.randn(2, 2, generator=generator) for name in names} for _ in range(3)]
    for number, model in enumerate(models):
        save_file(model, tmp_path / f"m{number}.safetensors")
    nodes: dict[str, Node] = {
        "base": {"op": "load", "path": "m2.safetensors"},
        "models": {"op": "load", "path": "m{item}.safetensors", "for_each": {"item": [0, 1]}},
        "measured": {"op": "layer-inputs", "model": "models", "suite": "suite.yaml", "task": "{item}", "rows": 8},
        "merged": {"op": "esm", "models": "models", "base": "base", "statistics": "measured"},
    }
    tensors = saved(tmp_path, nodes, "merged")
    taken = [rows[:8], rows.flip(0)[:8]]
    inputs = [{names[0]: one, names[1]: one @ model[names[0]].T} for one, model in zip(taken, models, strict=False)]
    updates = [{name: model[name] - models[2][name] for name in names} for model in models[:2]]
    for name, value in merge(tmp_path, updates, inputs).items():
        torch.testing.assert_close(tensors[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "params", "words"),
    [
        ({"layer.weight": torch.ones(3, 5)}, {}, r"has shape \[3, 5\], expected \[rows, in\] for the tensor"),
        ({"other": torch.ones(3, 2)}, {}, "'other', which belong to no tensor"),
        (ROWS, {"statistics": []}, "statistics"),
        (ROWS, {"power": -1.0}, "'power'"),
    ],
)
def test_mistakes(inputs: State, params: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(LinesError, match=words):
        merge(tmp_path, [{"layer.weight": diagonal(2.0, 1.0)}], [inputs], **params)
