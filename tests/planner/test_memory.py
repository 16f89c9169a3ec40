"""``--memory`` holds for the whole process tree, watched from outside, also where one tensor is larger than it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import TIES_LINES

import lines_pipeline
from lines_pipeline.core.errors import PlanError

NUMEL = 176_000_000
CAP_BYTES = 640_000_000


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
    found = 0
    try:
        for member in tree(process):
            lines = Path(f"/proc/{member}/status").read_text().splitlines()
            found += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_a_tensor_larger_than_the_cap_is_merged_within_it(models: Path, write_recipe: Callable[..., Path]) -> None:
    for seed, name in enumerate(("base", "a", "b", "c")):
        write_sparse(models / f"{name}.safetensors", seed)
    nodes = {name: node for name, node in TIES_LINES.items() if name != "scaled"}
    recipe = write_recipe({**nodes, "model": {"op": "apply", "base": "base", "delta": "merged"}})
    line = [sys.executable, "-m", "lines_pipeline", "run", str(recipe), "--memory", str(CAP_BYTES), "--out", "out"]
    peak = 0
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ) as running:
        while running.poll() is None:
            peak = max(peak, anonymous_bytes(running.pid))
            time.sleep(0.02)
        assert running.stderr is not None
        assert running.returncode == 0, running.stderr.read()
    assert Path("out/model.safetensors").stat().st_size > 4 * NUMEL > CAP_BYTES
    assert 0 < peak < CAP_BYTES


def test_a_plan_over_the_cap_says_what_would_fit(write_recipe: Callable[..., Path]) -> None:
    recipe = write_recipe(TIES_LINES)
    with pytest.raises(PlanError, match=r"needs [\d,]+ MB, --memory allows 300 MB: allow at least \d+MB"):
        lines_pipeline.run(recipe, out="out", memory="300MB")
    assert not list(Path("out").glob("*"))
    needed = lines_pipeline.plan(recipe).peak_bytes
    assert lines_pipeline.plan(recipe, memory=needed).peak_bytes == needed
