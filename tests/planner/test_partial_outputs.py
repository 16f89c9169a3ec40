"""Outputs drafted by an earlier sweep and finished by the last one have the bytes of outputs written at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TIES_LINES
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.core.events import Event, StageFinished
from lines_pipeline.planner import planning
from lines_pipeline.planner.rules.partial_outputs import leave_partial_outputs

Recipe = Callable[..., Path]
TIES = {name: node for name, node in TIES_LINES.items() if name != "scaled"}
TIES["model"] = {**TIES["model"], "delta": "merged"}


def outcome(recipe: Path, out: str) -> tuple[Any, dict[str, bytes], list[StageFinished]]:
    """Facts and files of a run, and its sweeps."""
    events: list[Event] = []
    result = lines_pipeline.run(recipe, out=out, cache=False, sinks=[events.append])
    files = {path.name: path.read_bytes() for path in result.files}
    return result.facts, files, [event for event in events if isinstance(event, StageFinished)]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], tuple[Any, dict[str, bytes]]]:
    """What a run gives that makes no drafts."""

    def run(recipe: Path) -> tuple[Any, dict[str, bytes]]:
        with monkeypatch.context() as patch:
            patch.setattr(
                planning, "RULES", tuple(rule for rule in planning.RULES if rule is not leave_partial_outputs)
            )
            return outcome(recipe, "at-once")[:2]

    return run


METHODS: Mapping[str, tuple[Mapping[str, Any], list[float]]] = {
    "ties, lines: the last sweep reads the draft and the base": (TIES_LINES, [4.0, 4.0, 2.0]),
    "ties: the second sweep writes": (TIES, [4.0, 4.0]),
    "lines of a trim, one tensor left out": (
        {
            "merged": {"op": "trim", "delta": "sum", "density": 0.5},
            "sum": {"op": "task-arithmetic", "deltas": "updates", "exclude": ["logit_scale"]},
            "scaled": {"op": "lines-scale", "delta": "merged", "alpha": "auto", "deltas": "updates", "beta": 0.5},
            "model": {"op": "apply", "base": "base", "delta": "scaled"},
            "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
        },
        [4.0, 4.0, 2.0],
    ),
    "a type that cannot hold a draft": (
        {**TIES_LINES, "saved": {**TIES_LINES["saved"], "dtype": "bfloat16"}},
        [4.0, 4.0, 4.0],
    ),
    "two outputs of one draft, one of them without a tensor": (
        {
            **TIES_LINES,
            "partly": {**TIES_LINES["scaled"], "exclude": ["visual.proj"]},
            "other": {"op": "apply", "base": "base", "delta": "partly"},
            "kept": {"op": "save", "model": "other", "path": "other.safetensors"},
        },
        [4.0, 4.0, 2.0],
    ),
    "an update that is saved too": (
        {**TIES_LINES, "update": {"op": "save", "model": "scaled", "path": "update.safetensors"}},
        [4.0, 4.0, 2.0],
    ),
}


@pytest.mark.parametrize("method", METHODS)
def test_drafts_change_no_byte_and_save_reading(
    method: str, write_recipe: Recipe, at_once: Callable[..., Any], shared_store: str
) -> None:
    nodes, models_read = METHODS[method]
    recipe = write_recipe(nodes)
    facts, written, sweeps = outcome(recipe, "drafted")
    assert (facts, written) == at_once(recipe)
    size = sum(v.nbytes for v in load_file(recipe.parent / "base.safetensors").values() if v.is_floating_point())
    assert [sweep.bytes_read / size for sweep in sweeps] == pytest.approx(models_read, rel=0.05)


def test_a_draft_made_under_a_wrong_guess_is_made_anew(
    models: Path, write_recipe: Recipe, at_once: Callable[..., Any], shared_store: str
) -> None:
    base = load_file(models / "base.safetensors")
    for name, sign in (("a", 2.0), ("b", -1.0), ("c", -1.0)):
        moved = {n: v.clone() for n, v in base.items()}
        moved["visual.proj"] += torch.full_like(moved["visual.proj"], sign)
        moved["visual.transformer.resblocks.0.ln_1.bias"] -= 1.0
        save_file(moved, models / f"{name}.safetensors")
    recipe = write_recipe({**TIES, "merged": {**TIES["merged"], "density": 1.0}})
    facts, written, sweeps = outcome(recipe, "drafted")
    assert facts["merged"]["sign_majority"] == -1 and facts["merged"]["zero_sign_entries"] > 0
    assert [sweep.name for sweep in sweeps] == ["1/2", "1 corrected"]
    assert 0 < sweeps[1].bytes_read < sweeps[0].bytes_read
    assert (facts, written) == at_once(recipe)


def test_what_nothing_is_kept_of_is_zero_whatever_the_majority(
    models: Path, write_recipe: Recipe, at_once: Callable[..., Any], shared_store: str
) -> None:
    base = load_file(models / "base.safetensors")
    base["visual.proj"][0] = -0.0
    for name in ("base", "a", "b", "c"):
        moved = {n: v.clone() for n, v in base.items()}
        moved["visual.transformer.resblocks.0.mlp.c_fc.weight"] -= 0.0 if name == "base" else 1.0
        save_file(moved, models / f"{name}.safetensors")
    recipe = write_recipe({**TIES, "update": {"op": "save", "model": "merged", "path": "update.safetensors"}})
    facts, written, _ = outcome(recipe, "drafted")
    assert facts["merged"]["sign_majority"] == -1
    assert (facts, written) == at_once(recipe)
    assert outcome(recipe, "again")[1] == written
    update = load_file("drafted/update.safetensors")["visual.proj"]
    assert not update.signbit().any()


def test_inputs_that_are_not_finite_are_not_drafted_over(
    models: Path, write_recipe: Recipe, at_once: Callable[..., Any], shared_store: str
) -> None:
    for name in ("base", "a", "b", "c"):
        state = load_file(models / f"{name}.safetensors")
        state["visual.proj"][3, 2:4] = torch.tensor([float("nan"), float("inf")])
        save_file(state, models / f"{name}.safetensors")
    recipe = write_recipe(TIES_LINES)
    facts, written, _ = outcome(recipe, "drafted")
    assert (facts, written) == at_once(recipe)
    proj = load_file("drafted/model.safetensors")["visual.proj"]
    assert proj[3, 2].isnan() and proj[3, 3].isinf() and proj[:3].isfinite().all()


def test_the_plan_tells_of_drafts(write_recipe: Recipe) -> None:
    report = lines_pipeline.plan(write_recipe(TIES_LINES))
    assert [dict(planned_pass["drafts"]) for planned_pass in report.passes] == [{}, {"model": "merged"}, {}]
    assert report.passes[1]["bytes_drafted"] == report.bytes_written == report.passes[2]["bytes_written"]
    assert "drafts model as merged" in report.render()
