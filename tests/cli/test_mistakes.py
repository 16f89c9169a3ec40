"""A user's mistakes on the command line: exit code 2, one clear message, no traceback, no output."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TIES_LINES
from safetensors.torch import load_file, save_file
from toy_suite import ENCODER, above, write_suite

Recipe = Callable[..., Path]
Spoil = Callable[[Path], Any]

pytestmark = pytest.mark.slow

OUT = Path("out")


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    line = [sys.executable, "-m", "lines_pipeline", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"}, timeout=120)


def changed(folder: Path, name: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Rewrite a checkpoint after ``change`` has been made to its tensors."""
    state = load_file(folder / name)
    change(state)
    save_file(state, folder / name)


def filled(folder: Path, name: str, value: float) -> Path:
    """Fill a tensor of a checkpoint with one value; give the folder."""
    changed(folder, name, lambda state: state["visual.proj"].fill_(value))
    return folder


def truncated(folder: Path) -> None:
    path = folder / "a.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


CHECKPOINTS: dict[str, tuple[Spoil, str]] = {
    "a NaN": (lambda f: changed(f, "a.safetensors", lambda s: s["visual.proj"].fill_(float("nan"))), "holds 64 NaN"),
    "a missing tensor": (lambda f: changed(f, "b.safetensors", lambda s: s.pop("visual.proj")), "lacks tensor"),
    "an extra tensor": (lambda f: changed(f, "b.safetensors", lambda s: s.update(x=torch.ones(2))), "on_extra: drop"),
    "another shape": (
        lambda f: changed(f, "c.safetensors", lambda s: s.update(logit_scale=torch.ones(2))),
        "has shape",
    ),
    "a truncated file": (truncated, "cut short"),
    "values too large": (
        lambda f: (
            filled(f, "base.safetensors", -3e38),
            filled(f, "a.safetensors", 3e38),
        ),
        "tensor 'visual.proj': differences or sums",
    ),
    "a missing file": (lambda f: (f / "b.safetensors").unlink(), "no such file"),
    "an empty file": (lambda f: (f / "b.safetensors").write_bytes(b""), "not a safetensors file"),
    "a text file": (lambda f: (f / "b.safetensors").write_text("hello " * 100), "not a safetensors file"),
    "an LFS pointer": (
        lambda f: (f / "b.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
        "Git LFS",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_bad_checkpoint(spoil: Spoil, message: str, models: Path, write_recipe: Recipe) -> None:
    recipe = write_recipe(TIES_LINES)
    spoil(models)
    refused(command("run", recipe, "--out", OUT), message)


def refused(completed: subprocess.CompletedProcess[str], *messages: str) -> None:
    """The command ended as it should after a mistake."""
    assert completed.returncode == 2, completed.stderr
    assert all(message in completed.stderr for message in messages), completed.stderr
    assert "Traceback" not in completed.stderr
    assert not OUT.exists()


RECIPES: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown op": ({**TIES_LINES, "merged": {"op": "tise", "deltas": "updates"}}, "did you mean 'ties'"),
    "an unknown field": ({**TIES_LINES, "merged": {"op": "ties", "deltas": "updates", "densty": 1}}, "densty"),
    "a density in percent": ({**TIES_LINES, "merged": {"op": "ties", "deltas": "updates", "density": 20}}, "density"),
    "weights for a delta": ({**TIES_LINES, "merged": {"op": "ties", "deltas": "experts"}}, "weights"),
    "a cycle": ({**TIES_LINES, "merged": {"op": "scale", "delta": "scaled", "by": 2}}, "->"),
    "an unknown node": ({**TIES_LINES, "merged": {"op": "ties", "deltas": "update"}}, "did you mean 'updates'"),
    "a path outside": (
        {**TIES_LINES, "saved": {"op": "save", "model": "model", "path": "../x.safetensors"}},
        "inside the run",
    ),
    "no sink": ({"merged": {"op": "ties", "deltas": "updates"}}, "save"),
    "no alpha": ({**TIES_LINES, "scaled": {"op": "lines-scale", "delta": "merged"}}, "alpha"),
    "a bad regex": (
        {**TIES_LINES, "scaled": {"op": "lines-scale", "delta": "merged", "gamma": 0.5, "blocks": "("}},
        "(",
    ),
    "no blocks": (
        {**TIES_LINES, "scaled": {"op": "lines-scale", "delta": "merged", "gamma": 0, "blocks": "q(1)"}},
        "no tensor",
    ),
    "a glob of nothing": (
        {**TIES_LINES, "merged": {"op": "ties", "deltas": "updates", "exclude": ["q*"]}},
        "matches no",
    ),
}


@pytest.mark.parametrize(("nodes", "message"), RECIPES.values(), ids=RECIPES)
def test_a_bad_recipe(nodes: dict[str, Any], message: str, write_recipe: Recipe) -> None:
    refused(command("run", write_recipe(nodes), "--out", OUT), message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--memory", "lots"], "--memory"),
        (["--memory", "10MB"], "allow at least"),
        (["--set", "nodes.scaled.betta=1"], "did you mean 'beta'"),
        (["--device", "abacus"], "device"),
        (["--workers", "0"], "workers"),
        (["--frobnicate"], "frobnicate"),
    ],
)
def test_bad_options(words: list[str], message: str, write_recipe: Recipe) -> None:
    refused(command("run", write_recipe(TIES_LINES), "--out", OUT, *words), message)


def test_a_recipe_that_is_not_there() -> None:
    refused(command("run", "nowhere.yaml"), "nowhere.yaml")


PLACED = """\
name: placed
nodes:
  base: {op: load, path: base.safetensors}
  experts:
    op: load
    for_each: {e: [a, b, c]}
    path: "{e}.safetensors"
  mean: {op: soup, models: experts}
  saved: {op: save, model: mean, path: mean.safetensors}
  copied: {op: save, model: base, path: base.safetensors}
"""
JUDGED = PLACED + "  val: {op: evaluate, model: mean, suite: suite.yaml, tasks: [rise], split: val}\n"


def test_all_missing_files_are_told_with_their_places(models: Path) -> None:
    recipe = models / "placed.yaml"
    recipe.write_text(PLACED)
    for name in ("base", "b"):
        (models / f"{name}.safetensors").unlink()
    names = {"3:26: node 'base'": "base", "7:11: node 'experts'": "b"}
    missing = [f"{recipe}:{place}: {models / name}.safetensors: no such file" for place, name in names.items()]
    refused(command("run", recipe, "--out", OUT), *missing)
    elsewhere = command("run", recipe, "--out", OUT, "--set", "nodes.experts.path='{e}.pt'")
    refused(elsewhere, f"--set nodes.experts.path: node 'experts': {models}/a.pt: no such file")


SUITES = {
    "no suite": (None, "val", "11:43: node 'val': {suite}: no such suite"),
    "no task": ("fall", "val", "11:62: node 'val': suite.yaml: no task 'rise'"),
    "no split": ("rise", "test", "11:77: node 'val': {suite}: task 'rise' has no data for split 'val'"),
}


@pytest.mark.parametrize(("task", "split", "message"), SUITES.values(), ids=SUITES)
def test_a_suite_that_does_not_fit_is_told_with_its_place(
    task: str | None, split: str, message: str, models: Path
) -> None:
    recipe = models / "placed.yaml"
    recipe.write_text(JUDGED)
    if task:
        write_suite(models, {task: {split: above(0.5)}})
    refused(command("run", recipe, "--out", OUT), f"{recipe}:{message.format(suite=models / 'suite.yaml')}")


def test_a_wrong_target_is_told_with_its_place_beside_wrong_tasks(models: Path) -> None:
    write_suite(models, {"rise": {"val": above(0.5)}})
    recipe = models / "placed.yaml"
    recipe.write_text(
        JUDGED
        + "  aimed: {op: evaluate, model: mean, suite: suite.yaml, split: val, tasks: [rise], target: rize}\n"
        + "  other: {op: evaluate, model: mean, suite: suite.yaml, split: val, tasks: [fall], target: rise}\n"
    )
    texts = ["12:92: node 'aimed': suite.yaml: no task 'rize'", "13:76: node 'other': suite.yaml: no task 'fall'"]
    refused(command("run", recipe, "--out", OUT), *(f"{recipe}:{text}" for text in texts))


def test_all_missing_files_of_suites_are_told_with_their_places(models: Path) -> None:
    suite = write_suite(models, {"rise": {"val": above(0.5)}})
    (models / "toy_encoder.py").write_text(ENCODER)
    recipe = models / "placed.yaml"
    recipe.write_text(JUDGED + JUDGED.splitlines()[-1].replace("val:", "base_val:").replace("mean", "base") + "\n")
    names = ("head", "rise_val")
    for name in names:
        (models / f"{name}.safetensors").unlink()
    places = ("11:43: node 'val'", "12:48: node 'base_val'")
    texts = [f"{recipe}:{at}: {suite}: task 'rise': {n}.safetensors: no such file" for at in places for n in names]
    refused(command("run", recipe, "--out", OUT, "--trust"), *texts)


def test_results_do_not_go_into_a_file(write_recipe: Recipe) -> None:
    OUT.write_text("mine")
    for place in (OUT, OUT / "below"):
        completed = command("run", write_recipe(TIES_LINES), "--out", place)
        assert completed.returncode == 2 and f"{OUT}: is a file" in completed.stderr, completed.stderr
    assert OUT.read_text() == "mine"


@pytest.mark.parametrize(
    ("out", "reason"), [("/proc/x/out", "No such file or directory"), (f"out/{'x' * 300}/out", "File name too long")]
)
def test_a_folder_that_cannot_be_made(out: str, reason: str, write_recipe: Recipe) -> None:
    completed = command("run", write_recipe(TIES_LINES), "--out", out)
    refused(completed, f"{out}: cannot be made or written ({reason}); choose another --out")


@pytest.mark.parametrize("out", [OUT, "memory://bucket/run"], ids=str)
def test_a_cache_that_cannot_be_written(
    out: str | Path, write_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("fsspec")
    (tmp_path / "taken").write_text("mine")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "taken"))
    refused(command("run", write_recipe(TIES_LINES), "--out", out), "cache cannot be written", "XDG_CACHE_HOME")
