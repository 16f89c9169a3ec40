"""``--memory`` holds for the whole process tree, watched from outside, also where one tensor is larger than it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import TIES_LINES
from safetensors.torch import save_file

import lines_pipeline
from lines_pipeline.core.errors import PlanError
from lines_pipeline.ops.statistics.digits import FEW_VALUES

NUMEL = 176_000_000
CAP_BYTES = 640_000_000
SAVED = {"op": "save", "model": "model", "path": "model.safetensors"}


def write_sparse(path: Path, seed: int) -> None:
    """One tensor of 704 MB, most of it a hole in the file: zeros that take no room."""
    header = {"blocks.0.weight": {"dtype": "F32", "shape": [NUMEL], "data_offsets": [0, 4 * NUMEL]}}
    text = json.dumps(header).encode()
    numbers = np.random.default_rng(seed).normal(size=2**20).astype(np.float32)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        start = file.tell()
        for place in range(0, NUMEL - 2**20, NUMEL // 40):
            file.seek(start + 4 * place)
            file.write(numbers.tobytes())
        file.truncate(start + 4 * NUMEL)


def tree(process: int) -> Iterator[int]:
    """A process and all it started."""
    yield process
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from tree(int(child))


def anonymous_bytes(process: int) -> int:
    """Of the tree now; 0 once it has ended."""
    nbytes = 0
    try:
        for member in tree(process):
            lines = Path(f"/proc/{member}/status").read_text().splitlines()
            nbytes += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return nbytes


def peak_of(line: Sequence[str]) -> int:
    """Run a command to its end; return the anonymous memory of its tree at the peak."""
    peak = 0
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ) as running:
        while running.poll() is None:
            peak = max(peak, anonymous_bytes(running.pid))
            time.sleep(0.02)
        assert running.stderr is not None
        assert running.returncode == 0, running.stderr.read()
    return peak


watched = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")


@pytest.mark.slow
@watched
def test_a_tensor_larger_than_the_cap_is_merged_within_it(models: Path, write_recipe: Callable[..., Path]) -> None:
    for seed, name in enumerate(("base", "a", "b", "c")):
        write_sparse(models / f"{name}.safetensors", seed)
    nodes = {name: node for name, node in TIES_LINES.items() if name != "scaled"}
    recipe = write_recipe({**nodes, "model": {"op": "apply", "base": "base", "delta": "merged"}})
    line = [sys.executable, "-m", "lines_pipeline", "run", str(recipe), "--memory", str(CAP_BYTES), "--out", "out"]
    peak = peak_of(line)
    assert Path("out/model.safetensors").stat().st_size > 4 * NUMEL > CAP_BYTES
    assert 0 < peak < CAP_BYTES


def test_a_plan_over_the_cap_says_what_would_fit(write_recipe: Callable[..., Path]) -> None:
    recipe = write_recipe(TIES_LINES)
    with pytest.raises(PlanError, match=r"needs [\d,]+ MB, --memory allows 300 MB: allow at least \d+MB"):
        lines_pipeline.run(recipe, out="out", memory="300MB")
    assert not list(Path("out").glob("*"))
    needed = lines_pipeline.plan(recipe).peak_bytes
    assert lines_pipeline.plan(recipe, memory=needed).peak_bytes == needed


def test_validate_makes_the_plan_that_a_run_would_be_refused_for(write_recipe: Callable[..., Path]) -> None:
    recipe = write_recipe(TIES_LINES)
    needed = lines_pipeline.plan(recipe, workers=1).peak_bytes
    lines_pipeline.validate(recipe, workers=1, memory=needed)
    with pytest.raises(PlanError, match=r"allow at least \d+MB, which is what one task at a time takes"):
        lines_pipeline.validate(recipe, workers=1, memory=needed - 10**6)


WIDTH, LAYERS = 1024, 16
FACTORY = f"""
from torch import nn


def make():
    return nn.Sequential(*(nn.Linear({WIDTH}, {WIDTH}, bias=False) for _ in range({LAYERS})))
"""
MODEL_BYTES = 4 * WIDTH**2 * LAYERS
DRIVEN: Mapping[str, Mapping[str, Any]] = {
    "fisher-information": {
        "driven": {"op": "fisher-information", "model": "model", "suite": "suite.yaml", "task": "a", "rows": 4},
        "saved": {"op": "save", "model": "driven", "path": "driven.safetensors"},
    },
    "evaluate": {"driven": {"op": "evaluate", "model": "model", "suite": "suite.yaml"}},
    "greedy soup": {
        "driven": {"op": "soup", "kind": "greedy", "models": ["model", "model"], "suite": "suite.yaml"},
        "saved": {"op": "save", "model": "driven", "path": "driven.safetensors"},
    },
}


def write_driven(folder: Path, nodes: Mapping[str, Any], dtype: torch.dtype = torch.float32) -> Path:
    """A recipe whose op is carried out by a driver, beside its suite and a model of 17 M parameters."""
    generator = torch.Generator().manual_seed(0)
    weights = (0.03 * torch.randn(WIDTH, WIDTH, generator=generator).to(dtype) for _ in range(LAYERS))
    save_file({f"{i}.weight": weight for i, weight in enumerate(weights)}, folder / "model.safetensors")
    save_file({"weight": torch.randn(3, WIDTH, generator=generator)}, folder / "head.safetensors")
    images, labels = torch.randn(4, WIDTH, generator=generator), torch.zeros(4, dtype=torch.int64)
    save_file({"images": images, "labels": labels}, folder / "data.safetensors")
    (folder / "factory.py").write_text(FACTORY)
    task = {"head": "head.safetensors", "data": dict.fromkeys(("val", "test"), "data.safetensors")}
    suite = {"model": {"factory": "factory.py:make"}, "normalize_features": False, "tasks": {"a": task}}
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))
    loaded: Mapping[str, Any] = {"loaded": {"op": "load", "path": "model.safetensors"}}
    model = {"model": {"op": "interpolate", "models": ["loaded"], "weights": 1.0}}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "driven", "nodes": {**loaded, **model, **nodes}}, sort_keys=False))
    return path


@pytest.mark.parametrize("op", DRIVEN)
def test_what_a_driver_takes_is_told_and_refused_before_the_run(op: str, tmp_path: Path) -> None:
    recipe = write_driven(tmp_path, DRIVEN[op])
    report = lines_pipeline.plan(recipe, trust=True)
    nbytes = report.drivers["driven"]
    assert report.peak_bytes == nbytes > 2 * MODEL_BYTES
    said = r"projected peak of anonymous memory ([\d.,]+ [MG]B)\n +\1 while driven is carried out"
    assert re.search(said, report.render())
    assert lines_pipeline.validate(recipe, trust=True, memory=nbytes)
    for use in (lines_pipeline.plan, lines_pipeline.validate, lines_pipeline.run):
        with pytest.raises(PlanError, match=r"allow at least \d+MB, which is what 'driven' takes"):
            use(recipe, trust=True, out=tmp_path / "out", memory=nbytes - 10**6)
    assert not list((tmp_path / "out").glob("*"))


def test_a_uniform_soup_has_no_driver_to_tell_of(tmp_path: Path) -> None:
    soup = {**DRIVEN["greedy soup"], "driven": {"op": "soup", "models": ["model", "model"]}}
    assert not lines_pipeline.plan(write_driven(tmp_path, soup)).drivers


@pytest.mark.slow
@watched
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("op", ["fisher-information", "evaluate"])
def test_a_driver_keeps_to_what_the_plan_tells(op: str, dtype: torch.dtype, tmp_path: Path) -> None:
    recipe = write_driven(tmp_path, DRIVEN[op], dtype)
    allowed = lines_pipeline.plan(recipe, trust=True, workers=1).peak_bytes
    line = [sys.executable, "-m", "lines_pipeline", "run", str(recipe), "--memory", str(allowed), "--trust"]
    peak = peak_of([*line, "--workers", "1", "--out", str(tmp_path / "out")])
    assert allowed / 2 <= peak <= allowed


@pytest.mark.parametrize(
    ("op", "found_values"),
    [
        ({"op": "pcb", "deltas": "updates"}, 6),
        ({"op": "sce", "deltas": "updates", "density": 0.5}, 1),
        ({"op": "trim", "delta": "updates[a]", "norm_fraction": 0.9}, 1),
    ],
)
def test_what_statistics_keep_is_in_the_peak(
    op: Mapping[str, Any], found_values: int, write_recipe: Callable[..., Path]
) -> None:
    nodes = {"merged": op, "model": {"op": "apply", "base": "base", "delta": "merged"}, "saved": SAVED}
    without = {**nodes, "merged": {"op": "task-arithmetic", "deltas": "updates"}}
    peaks = [lines_pipeline.plan(write_recipe(chosen), workers=1).peak_bytes for chosen in (nodes, without)]
    assert peaks[0] - peaks[1] >= found_values * 8 * FEW_VALUES


@pytest.mark.slow
@watched
def test_memory_narrows_brackets_before_it_refuses(models: Path, write_recipe: Callable[..., Path]) -> None:
    for seed, name in enumerate(("base", "a", "b", "c")):
        write_sparse(models / f"{name}.safetensors", seed)
    nodes = {name: node for name, node in TIES_LINES.items() if name != "scaled"}
    recipe = write_recipe({**nodes, "model": {"op": "apply", "base": "base", "delta": "merged"}})
    free = lines_pipeline.plan(recipe, workers=1)
    with pytest.raises(PlanError, match="allow at least") as refused:
        lines_pipeline.plan(recipe, workers=1, memory="421MB")
    least = str(refused.value).split("at least ")[1].split(",")[0]
    tight = lines_pipeline.plan(recipe, workers=1, memory=least)
    assert tight.peak_bytes < free.peak_bytes - 20e6
    assert "brackets 16 times narrower" in tight.render() and "brackets" not in free.render()
    line = [sys.executable, "-m", "lines_pipeline", "run", str(recipe), "--no-tracking", "--no-cache", "--workers", "1"]
    peak_of([*line, "--out", "wide"])
    peak = peak_of([*line, "--out", "narrow", "--memory", least])
    assert 0 < peak < int(least.removesuffix("MB")) * 10**6
    assert Path("narrow/model.safetensors").read_bytes() == Path("wide/model.safetensors").read_bytes()
