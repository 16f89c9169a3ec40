"""Whatever dies, a run ends with a clear error or the right file, and the next one makes it good."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from conftest import TIES_LINES
from safetensors.torch import load_file, save_file
from thoroughness import thorough
from toy_suite import above, write_model, write_suite

import lines_pipeline
from lines_pipeline import api
from lines_pipeline.core.errors import CheckpointError, EngineError, PlanError
from lines_pipeline.core.events import Event, RunStarted, StageProgress, StageStarted
from lines_pipeline.executor.block_writing import OutputBlocks
from lines_pipeline.executor.outputs import open_destination
from lines_pipeline.io.opening import open_checkpoint
from lines_pipeline.io.temporaries import temporary_path
from lines_pipeline.ops.testing.cluster import local_cluster

Recipe = Callable[..., Path]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

DRIVER = """
import os, signal, sys
import lines_pipeline
from lines_pipeline.io import writing

recipe, stop, number, sent, out = sys.argv[1], sys.argv[2], int(sys.argv[3]), getattr(signal, sys.argv[4]), sys.argv[5]
seen = 0

def fail(name):
    global seen
    seen += name == stop
    if name == stop and seen == number:
        os.kill(os.getpid(), sent)

rename = os.replace
def replace(source, target):
    if str(target).endswith("model.safetensors"):
        fail("rename")
    if "-of-0000" in str(target):
        fail("shard")
    rename(source, target)
os.replace = replace
lines_pipeline.run(recipe, out=out, scheduler="serial", sinks=[lambda event: fail(type(event).__name__)])
"""


CACHE_DRIVER = """
import os, pathlib, signal, sys
recipe, kind, moment, python = sys.argv[1:]
sys.path.insert(0, python)
import lines_pipeline

whole = pathlib.Path.write_bytes
def half(path, content):
    if moment == "1" and path.parent.name == kind:
        whole(path, content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(path, content)
pathlib.Path.write_bytes = half

rename = os.replace
def replace(source, target):
    if moment == "2" and os.path.basename(os.path.dirname(target)) == kind:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)
os.replace = replace
lines_pipeline.run(recipe, out="out", scheduler="serial")
"""


def drive(
    recipe: Path, stop: str, number: int, sent: str = "SIGKILL", out: str = "out"
) -> subprocess.CompletedProcess[str]:
    """A run in a process that sends itself a signal at an event."""
    command = [sys.executable, "-c", DRIVER, str(recipe), stop, str(number), sent, out]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def leftovers(tmp_path: Path) -> list[Path]:
    """Temporary files, in the output folder and in the cache."""
    return [path for path in tmp_path.rglob("*.tmp") if "mlruns" not in path.parts]


PHASES = [
    ("RunStarted", 1),
    thorough("StageStarted", 1),
    ("StageProgress", 1),
    thorough("StageFinished", 1),
    thorough("StageStarted", 2),
    thorough("StageStarted", 3),
    ("StageProgress", 3),
    ("StageFinished", 3),
    ("rename", 1),
    thorough("FileWritten", 1),
    ("RunFinished", 1),
]


@pytest.mark.parametrize(("event", "number"), PHASES, ids=lambda value: str(value))
def test_a_killed_driver_is_made_good_by_the_next_run(
    event: str, number: int, tmp_path: Path, write_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file lies at the top of the output folder, another further down."""
    recipe = write_recipe({**TIES_LINES, "nested": {**TIES_LINES["saved"], "path": "deep/er/model.safetensors"}})
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
        expected = lines_pipeline.run(recipe, out="expected").files[0].read_bytes()
    killed = drive(recipe, event, number)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    targets = [Path("out/model.safetensors"), Path("out/deep/er/model.safetensors")]
    assert all(not target.exists() or target.read_bytes() == expected for target in targets)
    lines_pipeline.run(recipe, out="out")
    assert all(target.read_bytes() == expected for target in targets)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("number", [thorough(1), 2, thorough(3)])
def test_a_run_that_is_killed_between_shards_leaves_no_mixture(
    number: int, tmp_path: Path, write_recipe: Recipe
) -> None:
    shards = {**TIES_LINES["saved"], "max_shard_size": "2KB"}
    lines_pipeline.run(write_recipe({**TIES_LINES, "saved": shards}), out="out")
    recipe = write_recipe({**TIES_LINES, "saved": shards, "scaled": {**TIES_LINES["scaled"], "beta": 0.25}})
    assert drive(recipe, "shard", number).returncode == -signal.SIGKILL
    with pytest.raises(CheckpointError, match="out"):
        open_checkpoint(Path("out"))
    result = lines_pipeline.run(recipe, out="out")
    assert sorted(Path("out").iterdir()) == sorted(path.relative_to(tmp_path) for path in result.files)
    assert len(open_checkpoint(Path("out")).tensors) == 11


def test_what_a_killed_run_has_not_sent_to_an_object_store_goes(tmp_path: Path, write_recipe: Recipe) -> None:
    pytest.importorskip("fsspec")
    uploads, url = tmp_path / "cache" / "lines-pipeline" / "uploads", "memory://bucket/run"
    killed = drive(write_recipe(TIES_LINES), "StageStarted", 1, out=url)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path for path in uploads.rglob("*") if path.is_file()] != []
    with open_destination(url) as destination:
        assert list(uploads.iterdir()) == [destination.folder]


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, write_recipe: Recipe) -> None:
    stopped = drive(write_recipe(TIES_LINES), "StageStarted", 2, "SIGINT")
    assert stopped.returncode != 0 and "KeyboardInterrupt" in stopped.stderr
    assert leftovers(tmp_path) == []
    assert not Path("out/model.safetensors").exists()


def test_two_runs_at_once_are_both_right(tmp_path: Path, write_recipe: Recipe) -> None:
    recipe = write_recipe(TIES_LINES)
    expected = lines_pipeline.run(recipe, out="expected", cache=False).files[0].read_bytes()
    Path("mlflow.db").unlink()  # the first of the three makes it anew
    command = [sys.executable, "-m", "lines_pipeline", "run", str(recipe), "--out", "out"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    ends = [(run.communicate(timeout=120)[1], run.returncode) for run in runs]
    assert [code for _, code in ends] == [0, 0, 0], ends
    assert Path("out/model.safetensors").read_bytes() == expected
    assert leftovers(tmp_path) == []


def at_first(kind: type[Event], act: Callable[[], object]) -> Callable[[Event], None]:
    """A sink that acts at the first event of a kind."""
    events: list[Event] = []

    def sink(event: Event) -> None:
        if isinstance(event, kind) and not events:
            events.append(event)
            act()

    return sink


def replaced(path: Path) -> None:
    state = load_file(path)
    save_file({name: value * 2 if value.is_floating_point() else value for name, value in state.items()}, path)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


@pytest.mark.parametrize("change", [replaced, truncated])
@pytest.mark.parametrize("moment", [StageStarted, StageProgress])
def test_an_input_that_changes_under_way_is_noticed(
    change: Callable[[Path], None], moment: type[Event], models: Path, tmp_path: Path, write_recipe: Recipe
) -> None:
    victim = models / "b.safetensors"
    with pytest.raises((EngineError, CheckpointError), match=r"b\.safetensors"):
        lines_pipeline.run(write_recipe(TIES_LINES), out="out", sinks=[at_first(moment, lambda: change(victim))])
    assert not Path("out/model.safetensors").exists()
    assert leftovers(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB, where the machine lets us mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a file system needs rights that this machine does not give")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_what_does_not_fit_on_the_disk_is_refused_before_anything_is_read(
    small_disk: Path, models: Path, write_recipe: Recipe
) -> None:
    for name in ("base", "a", "b", "c"):
        state = load_file(models / f"{name}.safetensors")
        save_file(state | {"wide": state["visual.proj"].repeat(60, 60)}, models / f"{name}.safetensors")
    events: list[Event] = []
    with pytest.raises(PlanError, match="are free; free some space or choose another --out"):
        lines_pipeline.run(write_recipe(TIES_LINES), out=small_disk, sinks=[events.append])
    assert not [event for event in events if isinstance(event, StageStarted)]
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_fills_up_meanwhile_is_a_clear_error(small_disk: Path, models: Path, write_recipe: Recipe) -> None:
    fill = at_first(RunStarted, lambda: (small_disk / "other").write_bytes(b"x" * 60_000))
    with pytest.raises(EngineError, match="disk is full"):
        lines_pipeline.run(write_recipe(TIES_LINES), out=small_disk / "out", sinks=[fill])
    assert [path.name for path in small_disk.rglob("*.safetensors")] == []


@pytest.mark.parametrize("compile", ["always", "never"])
def test_an_output_that_cannot_be_written_to_is_a_clear_error(
    compile: str, tmp_path: Path, write_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a disk that fails: the output is opened for reading alone."""
    pytest.importorskip("numba")
    monkeypatch.setattr(OutputBlocks, "descriptor", lambda outputs, path: os.open(path, os.O_RDONLY))
    sets = {"engine.compile": compile}
    with pytest.raises(EngineError, match="out: cannot be written"):
        lines_pipeline.run(write_recipe(TIES_LINES), out="out", cache=False, scheduler="serial", sets=sets)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("place", [".", "out"])
def test_a_folder_that_cannot_be_written_is_a_clear_error(place: str, small_disk: Path, write_recipe: Recipe) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(PlanError, match=r"cannot be made or written \(Read-only file system\)"):
        lines_pipeline.run(write_recipe(TIES_LINES), out=small_disk / place)


@pytest.mark.parametrize("size", [None, "2KB"])
def test_a_folder_that_cannot_be_written_may_hold_the_results(
    size: str | None, small_disk: Path, write_recipe: Recipe
) -> None:
    """They are found there, and only others are refused."""
    nodes = {**TIES_LINES, "saved": {**TIES_LINES["saved"], "max_shard_size": size}}
    recipe = write_recipe(nodes)
    first = lines_pipeline.run(recipe, out=small_disk)
    leftover = small_disk / temporary_path(Path("model.safetensors")).name.replace(f"-{os.getpid()}.", "-999999999.")
    leftover.touch()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    again = lines_pipeline.run(recipe, out=small_disk)
    assert again.files == first.files and again.cached == ("saved",)
    events: list[Event] = []
    with pytest.raises(PlanError, match=r"cannot be made or written \(Read-only file system\)"):
        lines_pipeline.run(recipe, out=small_disk, sets={"nodes.scaled.beta": 0.25}, sinks=[events.append])
    assert not [event for event in events if isinstance(event, StageStarted)]


@pytest.mark.parametrize("mine", ["", "out", "out/deep"])
def test_a_failed_run_takes_away_the_empty_folders_that_it_made(
    mine: str, tmp_path: Path, models: Path, write_recipe: Recipe
) -> None:
    folder = tmp_path / "results"
    (folder / mine).mkdir(parents=True)
    before = sorted(folder.rglob("*"))
    recipe = write_recipe({**TIES_LINES, "saved": {**TIES_LINES["saved"], "path": "deep/er/model.safetensors"}})
    victim = models / "b.safetensors"
    with pytest.raises((EngineError, CheckpointError), match=r"b\.safetensors"):
        lines_pipeline.run(recipe, out=folder / "out", sinks=[at_first(StageStarted, lambda: truncated(victim))])
    assert sorted(folder.rglob("*")) == before


@pytest.fixture
def full_cache(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache on a disk with no room at all."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(small_disk))
    (small_disk / "lines-pipeline" / "nodes").mkdir(parents=True)
    with suppress(OSError), (small_disk / "other").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    return small_disk


def test_a_full_cache_costs_a_merge_nothing(full_cache: Path, write_recipe: Recipe) -> None:
    recipe = write_recipe(TIES_LINES)
    results = [lines_pipeline.run(recipe, out=f"out{number}") for number in range(2)]
    assert results[0].files[0].read_bytes() == results[1].files[0].read_bytes()
    assert results[0].facts == results[1].facts and results[0].facts["merged"]
    (note,) = results[1].notes
    assert note.startswith("warning: ") and "No space left on device; what this run learnt is not kept" in note
    (full_cache / "other").unlink()
    again = lines_pipeline.run(recipe, out="out2")
    assert not again.notes and again.files[0].read_bytes() == results[0].files[0].read_bytes()


def test_a_full_cache_that_is_needed_is_a_clear_error(full_cache: Path, toy: Path) -> None:
    recipe = judged_soup(toy)
    with pytest.raises(PlanError, match=r"soup\.safetensors: .* are to be written, .* are free; .*XDG_CACHE_HOME"):
        lines_pipeline.run(recipe, out="out")
    assert leftovers(full_cache) == []
    (full_cache / "other").unlink()
    assert lines_pipeline.run(recipe, out="out").metrics["val"]["mean_accuracy"] == 0.5


@pytest.mark.parametrize("nbytes", [24_000, 1])
def test_what_is_old_in_a_full_cache_goes_where_that_is_enough(
    nbytes: int, small_disk: Path, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The least recently used entries, and no more than need be; where all would not be enough, all stay."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(small_disk))
    values = small_disk / "lines-pipeline" / "nodes" / "values"
    values.mkdir(parents=True)
    for age, name in enumerate(("newer", "older")):
        path = values / f"{name}.safetensors"
        path.write_bytes(bytes(nbytes))
        os.utime(path, (1e9 - age, 1e9 - age))
    with suppress(OSError), (small_disk / "other").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    recipe = judged_soup(toy)
    assert lines_pipeline.plan(recipe).shortages and len(list(values.iterdir())) == 2
    if nbytes > 1:
        assert lines_pipeline.run(recipe, out="out").metrics["val"]["mean_accuracy"] == 0.5
        assert not (values / "older.safetensors").exists() and (values / "newer.safetensors").exists()
    else:
        with pytest.raises(PlanError, match="are to be written"):
            lines_pipeline.run(recipe, out="out")
        assert len(list(values.iterdir())) == 2


def judged_soup(folder: Path) -> Path:
    """A recipe that merges two models by a soup, and judges it."""
    write_model(folder / "base.safetensors", 0.0)
    write_model(folder / "a.safetensors", 1.0)
    write_suite(folder, {"rise": {"val": above(0.125, 0.625)}})
    nodes = {
        "models": {"op": "load", "path": "{e}.safetensors", "for_each": {"e": ["base", "a"]}},
        "soup": {"op": "soup", "models": "models"},
        "val": {"op": "evaluate", "model": "soup", "suite": "suite.yaml", "split": "val"},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "judged", "nodes": nodes}))
    return path


CACHE_KINDS = ("stats", "digests", "values", "scores", "files")
CACHE_WRITES = [*((kind, 1) for kind in CACHE_KINDS), *(thorough(kind, 2) for kind in CACHE_KINDS)]


@pytest.mark.parametrize(("kind", "moment"), CACHE_WRITES, ids=lambda value: str(value))
def test_a_driver_that_is_killed_while_it_writes_to_the_cache(
    kind: str, moment: int, tmp_path: Path, toy: Path
) -> None:
    """Half way through the file (1), or just before it has its name (2)."""
    write_model(toy / "base.safetensors", 0.0, 0.0)
    write_model(toy / "a.safetensors", 0.5, 0.25)
    write_suite(toy, {"rise": {"val": above(0.125, 0.625)}}, blocks=2)
    nodes = {
        "base": {"op": "load", "path": "base.safetensors"},
        "expert": {"op": "load", "path": "a.safetensors"},
        "update": {"op": "task-vector", "model": "expert", "base": "base"},
        "merged": {"op": "ties", "deltas": ["update"], "density": 0.5},
        "model": {"op": "apply", "base": "base", "delta": "merged"},
        "val": {"op": "evaluate", "model": "model", "suite": "suite.yaml", "split": "val"},
        "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
    }
    recipe = toy / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"name": "killed", "nodes": nodes}))
    line = [sys.executable, "-c", CACHE_DRIVER, str(recipe), kind, str(moment), str(toy / "python")]
    killed = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    result = lines_pipeline.run(recipe, out="out")
    with pytest.MonkeyPatch.context() as elsewhere:
        elsewhere.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
        expected = lines_pipeline.run(recipe, out="expected")
    assert result.files[0].read_bytes() == expected.files[0].read_bytes()
    assert (result.facts, result.metrics) == (expected.facts, expected.metrics)
    assert api.cache_verify().entries == () and leftovers(tmp_path / "out") == []


def test_a_worker_that_dies_is_replaced(write_recipe: Recipe) -> None:
    recipe = write_recipe(TIES_LINES)
    expected = lines_pipeline.run(recipe, out="expected", cache=False, scheduler="serial").files[0].read_bytes()
    with local_cluster() as cluster:
        pids = [nanny.pid for nanny in cluster.workers.values()]
        kill = at_first(StageStarted, lambda: os.kill(pids[0], signal.SIGKILL))
        result = lines_pipeline.run(recipe, out="out", cache=False, scheduler=cluster.scheduler_address, sinks=[kill])
    assert result.files[0].read_bytes() == expected
