"""``engine.compile``: three ways to the same bytes, and what a run says where a compiler fails."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TIES_LINES, WITHOUT_COMPILERS
from merge_methods import METHODS, SAVED
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.core.errors import CheckpointError, EngineError, RecipeError
from lines_pipeline.core.events import Event, Note
from lines_pipeline.executor import compilation
from lines_pipeline.executor.compiled_tasks import CompiledTasks
from lines_pipeline.jit import compiling, launch, lowering
from lines_pipeline.jit.boundary import CompilerFailure
from lines_pipeline.jit.tracing import TraceBuilder

Recipe = Callable[..., Path]
Break = Callable[[pytest.MonkeyPatch], None]

FAILED = "compiled loops failed"


def bytes_of(recipe: Path, compile: str, **options: Any) -> tuple[bytes, list[str]]:
    """The merged file, and the notes that tell of compilers."""
    events: list[Event] = []
    result = lines_pipeline.run(
        recipe,
        out=f"out-{compile}",
        sets={"engine.compile": compile},
        cache=False,
        tracking=False,
        sinks=[events.append],
        **options,
    )
    (path,) = result.files
    return path.read_bytes(), [event.text for event in events if isinstance(event, Note) and FAILED in event.text]


@pytest.fixture
def compiles_small_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    """``auto`` compiles whatever the size."""
    monkeypatch.setattr(compilation, "LOADED_BYTES", 0)
    monkeypatch.setattr(compilation, "COMPILED_BYTES", 0)


@pytest.fixture
def fresh() -> Iterator[None]:
    """Compilers as in a new process."""
    before = sys.modules.get("lines_pipeline.jit.runtime")

    def forget() -> None:
        for remembered in (launch.load_runtime, compiling._compiled, compiling._host):
            remembered.cache_clear()

    forget()
    sys.modules.pop("lines_pipeline.jit.runtime", None)
    yield
    forget()
    if before is not None:
        sys.modules["lines_pipeline.jit.runtime"] = before


def missing(package: str) -> Break:
    def breaking(monkeypatch: pytest.MonkeyPatch) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == package] or [package]:
            monkeypatch.setitem(sys.modules, name, None)

    return breaking


def renamed(module: str, name: str) -> Break:
    return lambda monkeypatch: monkeypatch.delattr(importlib.import_module(module), name)


def raising(owner: Any, name: str, error: Exception) -> Break:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return lambda monkeypatch: monkeypatch.setattr(owner, name, fail)


def no_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where neither the package nor the home of its user can be written."""
    from numba.core import caching

    raising(caching.tempfile, "TemporaryFile", OSError("Read-only file system"))(monkeypatch)


def failing_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime loads, and fails on the first block."""
    runtime = importlib.import_module("lines_pipeline.jit.runtime")
    run = runtime.run

    def fail(span: Any, *rest: Any) -> Any:
        if len(span.blocks):
            raise SystemError("a dispatcher that changed its mind")
        return run(span, *rest)

    monkeypatch.setattr(runtime, "run", fail)


BREAKS: dict[str, tuple[Break, str]] = {
    "no numba": (missing("numba"), "ModuleNotFoundError"),
    "no llvmlite": (missing("llvmlite"), "ModuleNotFoundError"),
    "intrinsic": (renamed("numba.extending", "intrinsic"), "ImportError: cannot import name 'intrinsic'"),
    "external": (renamed("numba.core.types", "ExternalFunction"), "AttributeError: .*ExternalFunction"),
    "engine": (renamed("llvmlite.binding", "create_mcjit_compiler"), "AttributeError: .*create_mcjit_compiler"),
    "assembly": (raising(lowering._LoopBody, "_address", RuntimeError("LLVM IR parsing error")), "IR parsing error"),
    "trace": (raising(TraceBuilder, "compute", KeyError("moved")), "KeyError: 'moved'"),
    "folder": (no_cache_folder, "RuntimeError: cannot cache function .*: no locator available"),
    "run": (failing_run, "SystemError: a dispatcher that changed its mind"),
}


@pytest.mark.usefixtures("fresh", "compiles_small_merges")
@pytest.mark.parametrize("scheduler", ["serial", "threads"])
@pytest.mark.parametrize("name", BREAKS)
def test_whatever_breaks_in_a_compiler_the_interpreter_does_the_work_and_one_note_says_so(
    name: str, scheduler: str, write_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numba")
    breaking, reason = BREAKS[name]
    recipe = write_recipe(TIES_LINES)
    expected, notes = bytes_of(recipe, "never", scheduler=scheduler)
    assert notes == []
    breaking(monkeypatch)
    given_bytes, notes = bytes_of(recipe, "auto", scheduler=scheduler)
    assert given_bytes == expected
    (note,) = notes
    assert re.search(reason, note)
    assert "'engine.compile: never' runs without them" in note
    with pytest.raises(EngineError, match=rf"engine\.compile: 'always', but compiled loops failed: .*{reason}"):
        bytes_of(recipe, "always", scheduler=scheduler)


@pytest.mark.parametrize("method", ["ties, lines", "ties by max", "masks", "soup"])
def test_all_three_give_the_same_bytes(method: str, write_recipe: Recipe) -> None:
    pytest.importorskip("numba")
    recipe = write_recipe({name: node for name, node in METHODS[method].items() if name != "kept"})
    ways = [bytes_of(recipe, compile) for compile in ("never", "auto", "always")]
    assert ways[1:] == ways[:1] * 2
    assert ways[0][1] == []


def equal_and_opposite(models: Path) -> None:
    """Make every sign of an election depend on how zero is resolved."""
    base = load_file(models / "base.safetensors")
    for name, sign in (("a", 1.0), ("b", -1.0), ("c", 0.0)):
        moved = {n: v + sign * torch.ones_like(v) if v.is_floating_point() else v.clone() for n, v in base.items()}
        save_file(moved, models / f"{name}.safetensors")


@pytest.mark.usefixtures("compiles_small_merges")
def test_a_block_that_a_kernel_began_is_ended_by_the_interpreter(
    models: Path, write_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numba")
    equal_and_opposite(models)
    recipe = write_recipe({**TIES_LINES, "merged": {**TIES_LINES["merged"], "density": 1.0}})
    expected, _ = bytes_of(recipe, "never")
    assert bytes_of(recipe, "auto") == (expected, [])
    raising(CompiledTasks, "run_again", CompilerFailure("no more room for code"))(monkeypatch)
    given_bytes, notes = bytes_of(recipe, "auto")
    assert (given_bytes, len(notes)) == (expected, 1)


@pytest.mark.usefixtures("fresh", "compiles_small_merges")
def test_errors_of_the_data_stay_errors_where_a_compiler_fails_too(
    models: Path, write_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing("numba")(monkeypatch)
    recipe = write_recipe(TIES_LINES)
    state = load_file(models / "b.safetensors")
    state["visual.proj"][0, 0] = float("nan")
    save_file(state, models / "b.safetensors")
    with pytest.raises(CheckpointError, match=r"b\.safetensors: tensor 'visual\.proj' holds 1 NaN"):
        bytes_of(recipe, "auto")


LOADED = """
import sys
import lines_pipeline
from lines_pipeline.executor import compilation
compilation.LOADED_BYTES = compilation.COMPILED_BYTES = 0
lines_pipeline.run(sys.argv[1], out=sys.argv[2], sets={"engine.compile": sys.argv[2]}, cache=False, tracking=False)
print([name for name in ("numba", "llvmlite") if name in sys.modules])
"""


@pytest.mark.parametrize(("compile", "loaded"), [("never", "[]"), ("auto", "['numba', 'llvmlite']")])
def test_never_imports_no_compiler(compile: str, loaded: str, write_recipe: Recipe) -> None:
    pytest.importorskip("numba")
    line = [sys.executable, "-c", LOADED, str(write_recipe(TIES_LINES)), compile]
    completed = subprocess.run(line, capture_output=True, text=True, check=True, timeout=120)
    assert completed.stdout.splitlines()[-1] == loaded


def test_a_small_merge_waits_for_no_compiler(write_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(launch, "_runtime", AssertionError("loaded"))(monkeypatch)
    assert bytes_of(write_recipe(TIES_LINES), "auto")[1] == []


def test_other_words_are_refused_with_their_place(write_recipe: Recipe) -> None:
    recipe = write_recipe({**METHODS["arithmetic"]}, engine={"compile": "yes"})
    with pytest.raises(RecipeError, match=r"recipe\.yaml:\d+:\d+: 'engine\.compile': expected .*'auto'.*'never'"):
        lines_pipeline.validate(recipe)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_workers_of_a_cluster_name_themselves_and_the_run_says_it_once(
    tmp_path: Path, write_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dask_processes import DaskProcesses, connected

    recipe = write_recipe({"merged": {"op": "task-arithmetic", "deltas": "updates"}, **SAVED})
    expected, _ = bytes_of(recipe, "never")
    monkeypatch.setattr(compilation, "COMPILED_BYTES", 0)
    (tmp_path / "dask").mkdir()
    processes = DaskProcesses(tmp_path / "dask")
    try:
        address = processes.scheduler()
        for _ in range(2):
            processes.worker(address, python=[WITHOUT_COMPILERS])
        connected(address, 2)
        given_bytes, notes = bytes_of(recipe, "auto", scheduler=address)
        assert given_bytes == expected
        (note,) = notes
        assert re.search(r"failed \(worker tcp://\S+ on \S+: ModuleNotFoundError: No module named 'llvmlite'\)", note)
        with pytest.raises(EngineError, match=r"worker tcp://\S+ on \S+: engine\.compile: 'always'.*No module named"):
            bytes_of(recipe, "always", scheduler=address)
    finally:
        processes.stop()
