"""``tsv-c``, which compresses each task vector, and ``svc``, which calibrates any merged update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.core.errors import RecipeError

pytestmark = pytest.mark.usefixtures("shared_store")

State = dict[str, torch.Tensor]
Node = dict[str, Any]
SHAPES = {"wide": (6, 14), "tall": (15, 5), "text_projection": (8, 8), "bias": (7,), "kernel": (4, 3, 3, 3), "one": ()}


def random_states(count: int, dtype: torch.dtype = torch.float32) -> list[State]:
    generator = torch.Generator().manual_seed(0)
    return [
        {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()}
        for _ in range(count)
    ]


def run(folder: Path, updates: list[State], nodes: dict[str, Node], models: dict[str, str]) -> dict[str, State]:
    """Add the values that ``models`` names to a base of zeros, after ``nodes`` on the task vectors ``updates``."""
    for number, update in enumerate(updates):
        save_file(update, folder / f"e{number}.safetensors")
    save_file({name: torch.zeros_like(value) for name, value in updates[0].items()}, folder / "base.safetensors")
    experts = {"op": "load", "path": "e{n}.safetensors", "for_each": {"n": list(range(len(updates)))}}
    given: dict[str, Node] = {
        "base": {"op": "load", "path": "base.safetensors"},
        "experts": experts,
        "updates": {"op": "task-vector", "model": "experts", "base": "base"},
        **nodes,
    }
    for name, delta in models.items():
        given[f"model_{name}"] = {"op": "apply", "base": "base", "delta": delta}
        given[f"saved_{name}"] = {"op": "save", "model": f"model_{name}", "path": f"{name}.safetensors"}
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"name": "collections", "nodes": given}, sort_keys=False))
    lines_pipeline.run(recipe, out=folder / "out", tracking=False)
    return {name: load_file(folder / "out" / f"{name}.safetensors") for name in models}


def compress(folder: Path, updates: list[State], **params: Any) -> list[State]:
    node = {"op": "tsv-c", "deltas": "updates", **params}
    result = run(folder, updates, {"small": node}, {f"m{n}": f"small[{n}]" for n in range(len(updates))})
    return list(result.values())


def calibrate(folder: Path, updates: list[State], merged: Node, **params: Any) -> tuple[State, State]:
    """Return a merged update and what ``svc`` makes of it."""
    svc = {"op": "svc", "delta": "merged", "deltas": "updates", **params}
    result = run(folder, updates, {"merged": merged, "svc": svc}, {"merged": "merged", "svc": "svc"})
    return result["merged"], result["svc"]


SUM = {"op": "task-arithmetic", "deltas": "updates"}


def best(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    nearest: torch.Tensor = (left[:, :rank] * values[:rank]) @ right[:rank]
    return nearest.float()


def test_each_task_vector_keeps_its_share_of_directions(tmp_path: Path) -> None:
    updates = random_states(2)
    for update, compressed in zip(updates, compress(tmp_path, updates), strict=True):
        for name, rank in {"wide": 3, "tall": 2, "text_projection": 4}.items():
            torch.testing.assert_close(compressed[name], best(update[name], rank), rtol=1e-5, atol=1e-5)
        for name in ("bias", "kernel", "one"):
            assert torch.equal(compressed[name], update[name])


def test_a_rank_and_globs_bound_what_is_compressed(tmp_path: Path) -> None:
    (update,) = random_states(1)
    (compressed,) = compress(tmp_path, [update], rank=0.5, matrices=["tall"])
    torch.testing.assert_close(compressed["tall"], best(update["tall"], 2), rtol=1e-5, atol=1e-5)
    assert torch.equal(compressed["wide"], update["wide"])


def test_one_task_keeps_all_and_many_tasks_keep_no_direction(tmp_path: Path) -> None:
    updates = random_states(6)
    (alone,) = compress(tmp_path, updates[:1])
    torch.testing.assert_close(alone["wide"], updates[0]["wide"], rtol=1e-5, atol=1e-5)
    (tmp_path / "many").mkdir()
    compressed = compress(tmp_path / "many", updates)
    assert not compressed[0]["tall"].any() and torch.linalg.matrix_rank(compressed[0]["wide"]) == 1


def test_zero_and_low_rank_updates_are_compressed_to_themselves(tmp_path: Path) -> None:
    low = random_states(1)[0] | {"tall": torch.outer(torch.arange(15.0), torch.ones(5))}
    nothing = {name: torch.zeros_like(value) for name, value in low.items()}
    compressed = compress(tmp_path, [low, nothing])
    torch.testing.assert_close(compressed[0]["tall"], low["tall"], rtol=1e-5, atol=1e-5)
    assert not any(value.any() for value in compressed[1].values())


def test_a_rank_is_a_fraction(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="rank"):
        compress(tmp_path, random_states(1), rank=4)


def test_svc_by_hand(tmp_path: Path) -> None:
    """The sum is diag(4, 3); it holds the tasks' first directions 4 and 4/3 times, their second 3 and 1 (at least)."""
    first, second = {"w": torch.diag(torch.tensor([1.0, 0.0]))}, {"w": torch.diag(torch.tensor([3.0, 3.0]))}
    _, compressed = calibrate(tmp_path, [first, second], SUM)
    expected = torch.diag(torch.tensor([4 * 2 / (4 + 4 / 3), 3 * 2 / (1 + 1)]))
    torch.testing.assert_close(compressed["w"], expected)


def test_equal_tasks_are_counted_once(tmp_path: Path) -> None:
    (update,) = random_states(1)
    _, compressed = calibrate(tmp_path, [update] * 3, SUM)
    for name in ("wide", "tall", "text_projection"):
        torch.testing.assert_close(compressed[name], update[name], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(compressed["bias"], 3 * update["bias"])


@pytest.mark.parametrize("op", ["task-arithmetic", "ties", "iso-c", "tsv-m", "iso-cts", "cart", "wudi", "wudi-closed"])
def test_any_merged_update_is_calibrated_as_the_source_does(op: str, tmp_path: Path) -> None:
    updates = random_states(3)
    density = {"density": 0.5} if op == "ties" else {}
    merged, compressed = calibrate(tmp_path, updates, {"op": op, "deltas": "updates", **density}, alpha=0.2)
    for name, value in merged.items():
        if value.ndim != 2:
            assert torch.equal(compressed[name], value)
            continue
        left, values, right = torch.linalg.svd(value.double(), full_matrices=False)
        own = left.T @ value.double()
        answers = [left.T @ update[name].double() for update in updates]
        shares = torch.stack([(own * answer).sum(1) / answer.square().sum(1) for answer in answers])
        factors = len(updates) / shares.clamp(min=0.2).sum(0)
        torch.testing.assert_close(compressed[name].double(), (left * values * factors) @ right, rtol=1e-4, atol=1e-4)


def test_a_task_without_a_response_counts_as_alpha(tmp_path: Path) -> None:
    updates = random_states(2)
    nothing = {name: torch.zeros_like(value) for name, value in updates[0].items()}
    merged, compressed = calibrate(tmp_path, [updates[0], nothing], SUM, alpha=0.5)
    torch.testing.assert_close(compressed["wide"], merged["wide"] * 2 / 1.5, rtol=1e-5, atol=1e-5)


def test_zero_updates_are_calibrated_to_zero(tmp_path: Path) -> None:
    nothing = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    _, compressed = calibrate(tmp_path, [nothing, nothing], SUM)
    assert not any(value.any() for value in compressed.values())


def test_calibration_scales_with_the_updates(tmp_path: Path) -> None:
    """Down to updates whose squared responses lie far below the constant that the source divides by."""
    (tmp_path / "small").mkdir()
    updates = random_states(2)
    _, plain = calibrate(tmp_path, updates, SUM)
    small = [{name: value * 2.0**-30 for name, value in update.items()} for update in updates]
    _, compressed = calibrate(tmp_path / "small", small, SUM)
    for name, value in plain.items():
        torch.testing.assert_close(compressed[name] * 2.0**30, value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_calibrated_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    halves = random_states(2, dtype)
    (tmp_path / "wide").mkdir()
    wide = [{name: value.float() for name, value in half.items()} for half in halves]
    _, expected = calibrate(tmp_path / "wide", wide, SUM)
    _, compressed = calibrate(tmp_path, halves, SUM)
    for name, value in compressed.items():
        assert torch.equal(value, expected[name].to(dtype))


def test_globs_choose_what_is_calibrated(tmp_path: Path) -> None:
    merged, compressed = calibrate(tmp_path, random_states(2), SUM, matrices=["tall"])
    assert torch.equal(compressed["wide"], merged["wide"]) and not torch.equal(compressed["tall"], merged["tall"])
