"""Runs as MLflow has them: the default database, a real server on loopback, failures, trials, comparison."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import TIES_LINES
from mlflow import MlflowClient
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.core.errors import CheckpointError, LinesError, TrackingError
from lines_pipeline.core.events import (
    FileWritten,
    InputsIdentified,
    PassFinished,
    RunFinished,
    RunStarted,
    TrialStarted,
)
from lines_pipeline.tracking.comparison import compare
from lines_pipeline.tracking.mlflow import MlflowSink
from lines_pipeline.tracking.stores import check_reachable, resolve_uri, ui_command

Recipe = Callable[..., Path]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real tracking server on loopback."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    process = subprocess.Popen(
        [*command, "--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        start_new_session=True,
    )
    uri = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{uri}/health")
        yield uri
    finally:
        import os
        import signal

        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(url: str) -> None:
    for _ in range(240):
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"{url} did not answer")


def check_record(uri: str, run_id: str) -> None:
    """What every run records."""
    client = MlflowClient(tracking_uri=uri)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "tested"
    assert run.data.params["scaled.beta"] == "0.5"
    assert run.data.params["merged.density"] == "0.2"
    scales = client.get_metric_history(run_id, "lines/scale")
    assert [point.step for point in scales] == [0, 1, 2, 3]
    assert scales[3].value - scales[0].value == pytest.approx(0.5)
    assert run.data.metrics["pass/bytes_read"] > 0
    assert len(run.data.tags["recipe_hash"]) == 64
    assert run.data.tags["version.torch"]
    names = {artifact.path for artifact in client.list_artifacts(run_id)}
    assert {"recipe.yaml", "resolved.yaml", "plan.txt", "graph.svg", "layers.json"} <= names


def test_the_default_store_is_a_database_in_the_working_directory(write_recipe: Recipe) -> None:
    result = lines_pipeline.run(write_recipe(TIES_LINES), out="out")
    assert Path("mlflow.db").exists()
    check_record(result.tracking_uri, result.run_id)
    assert ui_command(result.tracking_uri) == f"mlflow ui --backend-store-uri sqlite:///{Path('mlflow.db').resolve()}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_server_works_the_same(server: str, write_recipe: Recipe) -> None:
    result = lines_pipeline.run(write_recipe(TIES_LINES), out="out", tracking_uri=server)
    check_record(server, result.run_id)
    assert not Path("mlflow.db").exists()


def test_the_environment_names_the_store(write_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///elsewhere.db")
    lines_pipeline.run(write_recipe(TIES_LINES), out="out")
    assert Path("elsewhere.db").exists() and not Path("mlflow.db").exists()


def test_a_server_that_is_not_there_ends_the_run_before_the_merge(write_recipe: Recipe) -> None:
    with pytest.raises(TrackingError, match=r"127\.0\.0\.1:9"):
        lines_pipeline.run(write_recipe(TIES_LINES), out="out", tracking_uri="http://127.0.0.1:9")
    assert not Path("out").exists()


def test_a_folder_is_refused_as_a_database(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="is no file; give the path of a database file"):
        check_reachable(f"sqlite:///{tmp_path}")


def test_a_failed_run_is_recorded_as_failed(models: Path, write_recipe: Recipe) -> None:
    state = load_file(models / "a.safetensors")
    save_file(state | {"visual.proj": torch.full((8, 8), float("nan"))}, models / "a.safetensors")
    with pytest.raises(LinesError):
        lines_pipeline.run(write_recipe(TIES_LINES), out="out")
    client = MlflowClient(tracking_uri=resolve_uri(None))
    (run,) = client.search_runs([client.get_experiment_by_name("lines-pipeline").experiment_id])
    assert run.info.status == "FAILED"
    assert "NaN" in run.data.tags["error"]


def test_a_run_that_never_started_makes_no_store(write_recipe: Recipe) -> None:
    missing = {"op": "load", "path": "{e}.safetensors", "for_each": {"e": ["a", "b", "nowhere"]}}
    with pytest.raises(CheckpointError, match="nowhere"):
        lines_pipeline.run(write_recipe({**TIES_LINES, "experts": missing}), out="out")
    assert not Path("mlflow.db").exists()


def test_figures_are_sent_when_told_and_at_the_end(tmp_path: Path) -> None:
    sink = MlflowSink(f"sqlite:///{tmp_path}/mlflow.db")
    client = MlflowClient(tracking_uri=sink.uri)
    sink(RunStarted("tested", "lines-pipeline", {"seed": 0}, {}, {}))
    sink(PassFinished("first", 1.0, 100, 10))
    sink(FileWritten("saved", Path("out"), 10))
    assert client.get_run(sink.run_id).data.metrics == {}
    sink.flush()
    told = client.get_run(sink.run_id).data
    assert told.metrics["pass/bytes_read"] == 100 and told.tags["file.saved"] == "out"
    sink(InputsIdentified({f"load{number}": "digest" for number in range(250)}))  # more than go into one request
    sink(RunFinished("FINISHED", 2.0))
    run = client.get_run(sink.run_id)
    assert run.info.status == "FINISHED" and run.data.params == {"seed": "0"} and run.data.metrics["run/seconds"] == 2
    assert len([tag for tag in run.data.tags if tag.startswith("input.")]) == 250


def test_a_run_is_ended_and_says_why_it_failed_where_a_parameter_is_refused(tmp_path: Path) -> None:
    sink = MlflowSink(f"sqlite:///{tmp_path}/mlflow.db")
    sink(RunStarted("tested", "lines-pipeline", {"p" * 300: 0}, {}, {}))
    sink(TrialStarted(0, 1, {}))
    with pytest.raises(TrackingError, match="maximum length"):
        sink(RunFinished("FAILED", 2.0, "a tensor holds NaN"))
    client = MlflowClient(tracking_uri=sink.uri)
    run = client.get_run(sink.run_id)
    assert run.info.status == "FAILED" and run.data.tags["error"] == "a tensor holds NaN"
    assert {found.info.status for found in client.search_runs([run.info.experiment_id])} == {"FAILED"}


def test_two_runs_are_compared_with_what_differs_first(write_recipe: Recipe) -> None:
    recipe = write_recipe(TIES_LINES)
    one = lines_pipeline.run(recipe, out="one")
    two = lines_pipeline.run(recipe, out="two", sets={"nodes.scaled.beta": 0.25})
    found = compare([one.run_id, two.run_id[:12]], one.tracking_uri)
    rows = {row.name: row for row in found.rows}
    assert rows["scaled.beta"].values == ("0.5", "0.25") and rows["scaled.beta"].differs
    assert not rows["merged.density"].differs
    order = [row.differs for row in found.rows]
    assert order == sorted(order, reverse=True)
    with pytest.raises(TrackingError, match="no run"):
        compare(["nothing-like-it", one.run_id], one.tracking_uri)


def test_items_that_are_absolute_paths_are_recorded(models: Path, write_recipe: Recipe) -> None:
    items = [str(models / name) for name in "abc"]
    experts = {"op": "load", "path": "{e}.safetensors", "for_each": {"e": items}}
    result = lines_pipeline.run(write_recipe({**TIES_LINES, "experts": experts}), out="out")
    tags = MlflowClient(tracking_uri=result.tracking_uri).get_run(result.run_id).data.tags
    assert f"input.experts{models}/a" in tags


@pytest.mark.slow
def test_a_killed_run_is_recorded_as_killed(write_recipe: Recipe) -> None:
    script = (
        "import os, signal, sys, time, lines_pipeline\n"
        "from lines_pipeline.core.events import PassFinished\n"
        "def die(event):\n"
        "    if isinstance(event, PassFinished): os.kill(os.getpid(), signal.SIGKILL)\n"
        "lines_pipeline.run(sys.argv[1], out='out', cache=False, sinks=[die])\n"
    )
    recipe = write_recipe(TIES_LINES)
    lines_pipeline.run(recipe, out="before")
    killed = subprocess.run([sys.executable, "-c", script, str(recipe)], timeout=120, check=False)
    assert killed.returncode == -9
    client = MlflowClient(tracking_uri=resolve_uri(None))
    experiment = client.get_experiment_by_name("lines-pipeline").experiment_id
    for _ in range(120):
        statuses = sorted(run.info.status for run in client.search_runs([experiment]))
        if statuses == ["FINISHED", "KILLED"]:
            break
        time.sleep(0.5)
    assert statuses == ["FINISHED", "KILLED"]


def test_comparing_makes_no_store(tmp_path: Path) -> None:
    store = tmp_path / "nowhere.db"
    for path in (store, tmp_path):
        with pytest.raises(TrackingError, match="no such store"):
            compare(["one", "two"], f"sqlite:///{path}")
    assert not store.exists()
