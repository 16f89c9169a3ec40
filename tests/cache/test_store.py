"""The node cache stays within its size, proves whole, and serves several processes at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TIES_LINES
from toy_suite import above, below, write_model, write_suite
from typer.testing import CliRunner

import lines_pipeline
from lines_pipeline import api
from lines_pipeline.cache.store import NodeCache
from lines_pipeline.cli.app import app
from lines_pipeline.core.errors import PlanError
from lines_pipeline.core.events import Event, StageStarted
from lines_pipeline.io.temporaries import temporary_path

pytestmark = pytest.mark.usefixtures("shared_store")

Recipe = Callable[..., Path]


@pytest.fixture
def judged(toy: Path) -> Path:
    """A recipe whose model is evaluated, not saved: the cache holds its weights."""
    write_model(toy / "base.safetensors", 0.0)
    write_model(toy / "a.safetensors", 1.0)
    images = (0.125, 0.375, 0.625, 0.875)
    write_suite(toy, {"rise": {"val": above(*images)}, "fall": {"val": below(*images)}})
    nodes = {
        "base": {"op": "load", "path": "base.safetensors"},
        "expert": {"op": "load", "path": "a.safetensors"},
        "update": {"op": "task-vector", "model": "expert", "base": "base"},
        "model": {"op": "apply", "base": "base", "delta": "update", "scale": 0.5},
        "val": {"op": "evaluate", "model": "model", "suite": "suite.yaml", "split": "val"},
    }
    path = toy / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "judged", "nodes": nodes}))
    return path


def sweeps(recipe: Path, **options: Any) -> tuple[lines_pipeline.RunResult, int]:
    """A run, and how often it went over the inputs."""
    events: list[Event] = []
    result = lines_pipeline.run(recipe, out="out", sinks=[events.append], **options)
    return result, sum(isinstance(event, StageStarted) for event in events)


def kinds() -> list[str]:
    return [entry.kind for entry in api.cache_list().entries]


def values() -> list[Path]:
    return [entry.path for entry in api.cache_list().entries if entry.kind == "values"]


def test_what_is_in_it_is_listed_oldest_use_first(judged: Path) -> None:
    assert api.cache_list().entries == ()
    sweeps(judged)
    report = api.cache_list()
    assert sorted(set(kinds())) == ["digests", "scores", "values"]
    assert [entry.used for entry in report.entries] == sorted(entry.used for entry in report.entries)
    assert report.nbytes == sum(entry.nbytes for entry in report.entries)
    printed = json.loads(CliRunner().invoke(app, ["cache", "list", "--json"]).stdout)
    assert [entry["kind"] for entry in printed["entries"]] == kinds()
    assert printed["limit"] == 50 * 10**9


def test_damaged_results_count_as_absent_and_are_made_again(write_recipe: Recipe) -> None:
    recipe = write_recipe(TIES_LINES)
    expected, _ = sweeps(recipe)
    Path("out/model.safetensors").unlink()
    damaged = [entry.path for entry in api.cache_list().entries if entry.kind == "stats"]
    for number, path in enumerate(damaged):
        content = path.read_text()
        path.write_text(content[: len(content) // 2] if number % 2 else content.replace("1", "2").replace("0.", "7."))
    result, count = sweeps(recipe)
    assert count == 3 and result.facts == expected.facts
    assert [p for p in damaged if p.exists()] == damaged
    assert api.cache_verify().entries == ()


@pytest.mark.parametrize("damage", ["a value", "the header", "cut short"])
def test_a_damaged_value_is_made_again(damage: str, judged: Path) -> None:
    expected, _ = sweeps(judged)
    (path,) = values()
    whole = path.read_bytes()
    content = bytearray(whole)
    content[-1 if damage == "a value" else 12] ^= 0x40
    path.write_bytes(whole[:-3] if damage == "cut short" else content)
    for entry in api.cache_list().entries:
        if entry.kind == "scores":
            entry.path.unlink()
    result, count = sweeps(judged)
    assert result.metrics == expected.metrics and count == 1
    assert path.read_bytes() == whole


def test_a_sound_value_is_used_again(judged: Path) -> None:
    sweeps(judged)
    for entry in api.cache_list().entries:
        if entry.kind == "scores":
            entry.path.unlink()
    assert sweeps(judged)[1] == 0


def test_verify_tells_of_damage_and_removes_it(judged: Path) -> None:
    sweeps(judged)
    assert CliRunner().invoke(app, ["cache", "verify"]).exit_code == 0
    (path,) = values()
    path.write_bytes(path.read_bytes()[:-4])
    completed = CliRunner().invoke(app, ["cache", "verify", "--json"])
    printed = json.loads(completed.stdout)
    assert completed.exit_code == 1
    assert [entry["path"] for entry in printed["entries"]] == [str(path)] and printed["checked"] > 2
    assert not path.exists() and api.cache_verify().entries == ()


def test_verify_is_no_use(judged: Path) -> None:
    sweeps(judged)
    for entry in api.cache_list().entries:
        os.utime(entry.path, (1e9, 1e9))
    before = api.cache_list().entries
    api.cache_verify()
    assert api.cache_list().entries == before


def test_prune_removes_what_was_used_longest_ago(write_recipe: Recipe) -> None:
    sweeps(write_recipe(TIES_LINES))
    entries = api.cache_list().entries
    oldest = max(entries, key=lambda entry: entry.nbytes)
    os.utime(oldest.path, (0, 0))
    report = api.cache_prune(sum(entry.nbytes for entry in entries) - 1)
    assert [entry.path for entry in report.entries] == [oldest.path]
    completed = CliRunner().invoke(app, ["cache", "prune", "--to", "0"])
    assert completed.exit_code == 0 and f"removed {len(entries) - 1} entries" in completed.stdout
    assert api.cache_list().entries == ()
    assert CliRunner().invoke(app, ["cache", "list", "--to", "1GB"]).exit_code == 2
    with pytest.raises(PlanError, match="--to: expected a size"):
        api.cache_prune("much")


def test_prune_clears_up_after_killed_processes(judged: Path) -> None:
    sweeps(judged)
    folder = values()[0].parent
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    ours = temporary_path(folder / "x.safetensors")
    theirs = ours.with_name(ours.name.replace(f"-{os.getpid()}.", f"-{ended.stdout.strip()}."))
    left = [theirs, folder / "0f.json", folder / "0f.lock"]
    for path in (ours, *left):
        path.write_bytes(b"half")
    api.cache_prune()
    assert not any(path.exists() for path in left)
    assert ours.exists()


def test_what_is_held_stays_when_another_run_makes_it_again(judged: Path) -> None:
    sweeps(judged)
    (path,) = values()
    with closing(NodeCache(path.parents[1])) as holder:
        assert holder.values.has(path.stem)
        sweeps(judged, cache=False)
        api.cache_prune(0)
        assert values() == [path]
        assert holder.values.is_sound(path)


def test_the_limit_is_kept_and_what_a_run_holds_stays(judged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES_PIPELINE_CACHE_BYTES", "1")
    sweeps(judged)
    (path,) = values()
    holder = NodeCache(path.parents[1])
    assert holder.values.has(path.stem)
    api.cache_prune()
    assert values() == [path]
    holder.close()
    api.cache_prune()
    assert api.cache_list().entries == ()
    monkeypatch.setenv("LINES_PIPELINE_CACHE_BYTES", "a lot")
    with pytest.raises(PlanError, match="LINES_PIPELINE_CACHE_BYTES: expected a size"):
        api.cache_list()


def test_reading_marks_what_is_used(judged: Path) -> None:
    sweeps(judged)
    for entry in api.cache_list().entries:
        os.utime(entry.path, (0, 0))
    before = time.time() - 5
    sweeps(judged)
    used = {entry.kind for entry in api.cache_list().entries if entry.used > before}
    assert used >= {"digests", "scores"}


@pytest.mark.slow
def test_processes_at_once_with_hardly_any_room_get_the_same_result(judged: Path) -> None:
    factory = str(judged.parent / "python")
    environment = os.environ | {"LINES_PIPELINE_CACHE_BYTES": "300", "PYTHONPATH": factory}
    line = [sys.executable, "-m", "lines_pipeline", "run", str(judged), "--json", "--out"]
    for _ in range(2):
        running = [
            subprocess.Popen(
                [*line, f"out{n}"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            for n in range(3)
        ]
        entries = [(process_run.communicate(timeout=120), process_run.returncode) for process_run in running]
        assert [code for _, code in entries] == [0, 0, 0], entries
        metrics = [json.loads(out)["metrics"] for (out, _), _ in entries]
        assert metrics[0] == metrics[1] == metrics[2]
    assert api.cache_verify().entries == ()
