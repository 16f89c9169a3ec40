"""Runs as MLflow has them: the default database, a real server on loopback, failures, trials, comparison."""

from __future__ import annotations

import json
import socket
import socketserver
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Barrier, Thread

import pytest
import torch
from conftest import TIES_LINES
from mlflow import MlflowClient
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.core.errors import CheckpointError, LinesError, TrackingError, UnknownRunError
from lines_pipeline.core.events import (
    FileWritten,
    MetricsComputed,
    RunFinished,
    RunStarted,
    StageFinished,
    TrialStarted,
)
from lines_pipeline.io.entries import file_digest
from lines_pipeline.tracking import reaching
from lines_pipeline.tracking.comparison import compare
from lines_pipeline.tracking.mlflow import MlflowSink
from lines_pipeline.tracking.stores import check_reachable, connect, resolve_uri, ui_command

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
    assert run.data.params["merged.op"] == "ties" and run.data.params["merged.deltas"] == "updates"
    assert run.data.params["experts.for_each"] == '{"e": ["a", "b", "c"]}'
    assert "merged.density" not in run.data.params, "what is at its default is left out"
    scales = client.get_metric_history(run_id, "lines/scale")
    assert [point.step for point in scales] == [0, 1, 2, 3]
    assert scales[3].value - scales[0].value == pytest.approx(0.5)
    assert run.data.metrics["pass/bytes_read"] > 0
    assert len(run.data.tags["recipe_hash"]) == 64
    assert run.data.tags["version.torch"]
    assert run.data.tags["mlflow.source.name"].endswith("/recipe.yaml") and run.data.tags["mlflow.user"]
    names = {artifact.path for artifact in client.list_artifacts(run_id)}
    assert {
        "recipe.yaml",
        "resolved.yaml",
        "plan.txt",
        "graph.svg",
        "layers.json",
        "inputs.json",
        "files.json",
    } <= names
    digests = json.loads(Path(client.download_artifacts(run_id, "inputs.json")).read_text())
    assert list(digests) == ["base", "experts[a]", "experts[b]", "experts[c]"] and len(set(digests.values())) == 4
    (file,) = json.loads(Path(client.download_artifacts(run_id, "files.json")).read_text())["files"]
    assert file["digest"] == run.data.tags["file.saved"] == f"blake3:{file_digest(Path(file['path']))}"


def experiment_id(client: MlflowClient, name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    return str(experiment.experiment_id)


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
    (run,) = client.search_runs([experiment_id(client, "lines-pipeline")])
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
    params = {f"p{number}": "x" * 2_000 for number in range(250)}  # more than go into one request
    sink(RunStarted("tested", "lines-pipeline", params, {}, {}))
    sink(StageFinished("first", 1.0, 100, 10))
    sink(FileWritten("saved", "s3://bucket/out", 10))
    assert client.get_run(sink.run_id).data.metrics == {}
    sink.flush()
    recorded = client.get_run(sink.run_id).data
    assert recorded.metrics["pass/bytes_read"] == 100 and recorded.tags["file.saved"] == "10 bytes"
    sink(RunFinished("FINISHED", 2.0))
    run = client.get_run(sink.run_id)
    assert run.info.status == "FINISHED" and run.data.params == params and run.data.metrics["run/seconds"] == 2


def test_every_file_of_a_model_folder_is_recorded_and_one_that_cannot_be_read_is_no_failure(tmp_path: Path) -> None:
    names = ["model-1.safetensors", "model-2.safetensors", "README.md", "gone.json"]
    for name in names[:3]:
        (tmp_path / name).write_text(name)
    sink = MlflowSink(f"sqlite:///{tmp_path}/mlflow.db")
    sink(RunStarted("tested", "lines-pipeline", {}, {}, {}))
    sink(FileWritten("saved", tmp_path, 60, False, tuple(tmp_path / name for name in names)))
    sink(RunFinished("FINISHED", 2.0))
    client = MlflowClient(tracking_uri=sink.uri)
    assert client.get_run(sink.run_id).data.tags["file.saved"] == "4 files, see files.json"
    rows = json.loads(Path(client.download_artifacts(sink.run_id, "files.json")).read_text())["files"]
    expected = [f"blake3:{file_digest(tmp_path / name)}" for name in names[:2]]
    assert [row["digest"] for row in rows] == [*expected, "", ""]
    assert [row["bytes"] for row in rows] == [19, 19, 9, None] and {row["opened_by"] for row in rows} == {str(tmp_path)}


def test_what_is_too_long_for_mlflow_is_cut_where_one_sees_it(tmp_path: Path) -> None:
    sink = MlflowSink(f"sqlite:///{tmp_path}/mlflow.db")
    sink(RunStarted("tested", "lines-pipeline", {"p" * 300: 0, "long": "x" * 10_000}, {"t": "y" * 9_000}, {}))
    sink(TrialStarted(0, 1, {}))
    sink(RunFinished("FAILED", 2.0, "a tensor holds NaN"))
    client = MlflowClient(tracking_uri=sink.uri)
    run = client.get_run(sink.run_id)
    assert run.data.params["long"] == f"{'x' * 200}... (10000 characters, see params/long.txt)"
    assert Path(client.download_artifacts(sink.run_id, "params/long.txt")).read_text() == "x" * 10_000
    assert run.data.tags["t"].endswith("y...") and len(run.data.params) == 2 and sink.refusals() == []
    assert run.info.status == "FAILED" and run.data.tags["error"] == "a tensor holds NaN"
    assert {failed_run.info.status for failed_run in client.search_runs([run.info.experiment_id])} == {"FAILED"}


def test_names_that_mlflow_cannot_hold_stay_apart(tmp_path: Path) -> None:
    sink = MlflowSink(f"sqlite:///{tmp_path}/mlflow.db")
    names = ["accuracy/top@1", "accuracy/top_1", "accuracy/top 1", "accuracy/top_x40_1", "accuracy/../1", "accuracy//1"]
    sink(RunStarted("tested", "lines-pipeline", {}, {}, {}))
    sink(MetricsComputed("val", {name: float(number) for number, name in enumerate(names)}, False))
    sink(RunFinished("FINISHED", 2.0))
    metrics = MlflowClient(tracking_uri=sink.uri).get_run(sink.run_id).data.metrics
    assert sorted(value for name, value in metrics.items() if name.startswith("val/")) == [0, 1, 2, 3, 4, 5]
    assert metrics["val/accuracy/top_1"] == 1 and metrics["val/accuracy/top_x40_1"] == 0


def test_two_runs_are_compared_with_what_differs_first(write_recipe: Recipe) -> None:
    recipe = write_recipe(TIES_LINES)
    result = lines_pipeline.run(recipe, out="one")
    two = lines_pipeline.run(recipe, out="two", sets={"nodes.scaled.beta": 0.25})
    comparison = compare([result.run_id, two.run_id[:12]], result.tracking_uri)
    rows = {row.name: row for row in comparison.rows}
    assert rows["scaled.beta"].values == ("0.5", "0.25") and rows["scaled.beta"].differs
    assert not rows["merged.op"].differs
    order = [row.differs for row in comparison.rows]
    assert order == sorted(order, reverse=True)
    with pytest.raises(TrackingError, match="no run"):
        compare(["nothing-like-it", result.run_id], result.tracking_uri)


def test_items_that_are_absolute_paths_are_recorded(models: Path, write_recipe: Recipe) -> None:
    items = [str(models / name) for name in "abc"]
    experts = {"op": "load", "path": "{e}.safetensors", "for_each": {"e": items}}
    result = lines_pipeline.run(write_recipe({**TIES_LINES, "experts": experts}), out="out")
    digests = MlflowClient(tracking_uri=result.tracking_uri).download_artifacts(result.run_id, "inputs.json")
    assert f"experts[{models}/a]" in json.loads(Path(digests).read_text())


def test_what_differs_in_structure_differs_in_a_parameter(write_recipe: Recipe) -> None:
    runs = []
    for order in ("abc", "cba"):
        experts = {"op": "load", "path": "{e}.safetensors", "for_each": {"e": list(order)}}
        model = {"op": "interpolate", "models": "experts", "weights": [0.5, 0.25, 0.25]}
        saved = {"op": "save", "model": "model", "path": "model.safetensors"}
        recipe = write_recipe({"experts": experts, "model": model, "saved": saved})
        runs.append(lines_pipeline.run(recipe, out=order))
    comparison = compare(["tested", "tested"], runs[0].tracking_uri)
    assert comparison.run_ids == tuple(run.run_id for run in runs), "the two latest, the older one first"
    differing = {(row.kind, row.name) for row in comparison.rows if row.differs}
    assert {("params", "experts.for_each"), ("hashes", "recipe_hash")} <= differing
    assert not [name for kind, name in differing if kind == "inputs"], "the same files are read"


def test_runs_are_named_by_what_was_set_and_found_by_their_recipe(write_recipe: Recipe) -> None:
    recipe = write_recipe(TIES_LINES, description="What it is for.")
    first = lines_pipeline.run(recipe, out="out", sets={"nodes.scaled.beta": 0.4, "tracking.experiment": "mine"})
    client = MlflowClient(tracking_uri=first.tracking_uri)
    run = client.get_run(first.run_id)
    assert run.info.run_name == "tested scaled.beta=0.4" and run.data.tags["mlflow.note.content"] == "What it is for."
    with pytest.raises(UnknownRunError, match="is the only run called 'tested'"):
        compare(["tested", "tested"], first.tracking_uri)
    lines_pipeline.run(recipe, out="out")
    last = lines_pipeline.run(recipe, out="out")
    comparison = compare(["tested", first.run_id], first.tracking_uri)
    assert comparison.run_ids == (last.run_id, first.run_id)
    assert "3 runs are called 'tested'; compared is the latest: " + last.run_id[:8] in comparison.notes[0]


def test_a_deleted_experiment_is_told_by_its_name_before_anything_is_read(write_recipe: Recipe) -> None:
    recipe = write_recipe(TIES_LINES)
    first = lines_pipeline.run(recipe, out="out", sets={"tracking.experiment": "gone"})
    client = MlflowClient(tracking_uri=first.tracking_uri)
    client.delete_experiment(experiment_id(client, "gone"))
    (recipe.parent / "a.safetensors").unlink()
    with pytest.raises(TrackingError, match=r"experiment 'gone' was deleted; bring it back with .*--no-tracking"):
        lines_pipeline.run(recipe, out="out", sets={"tracking.experiment": "gone"})


def test_the_environment_names_the_experiment_or_the_run(write_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write_recipe(TIES_LINES)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "by name")
    first = lines_pipeline.run(recipe, out="out")
    client = MlflowClient(tracking_uri=first.tracking_uri)
    number = experiment_id(client, "by name")
    assert client.get_run(first.run_id).info.experiment_id == number
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", number)
    assert client.get_run(lines_pipeline.run(recipe, out="out").run_id).info.experiment_id == number
    monkeypatch.setenv("MLFLOW_RUN_ID", first.run_id)
    again = lines_pipeline.run(recipe, out="out", sets={"nodes.scaled.beta": 0.25})
    assert again.run_id == first.run_id
    assert any("scaled.beta is 0.5 already" in note for note in again.notes)
    assert client.get_run(first.run_id).info.status == "FINISHED"
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with pytest.raises(TrackingError, match="0000"):
        lines_pipeline.run(recipe, out="out")


def test_first_runs_into_a_new_experiment_take_the_one_that_another_made(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    connect(uri)
    sinks = [MlflowSink(uri) for _ in range(6)]
    begin = Barrier(len(sinks))

    def start(sink: MlflowSink) -> None:
        begin.wait()
        sink(RunStarted("tested", "new", {"seed": 0}, {}, {"recipe.yaml": "name: tested"}))
        sink(RunFinished("FINISHED", 1.0))

    with ThreadPoolExecutor(len(sinks)) as pool:
        list(pool.map(start, sinks))
    client = MlflowClient(tracking_uri=uri)
    (experiment,) = [candidate for candidate in client.search_experiments() if candidate.name == "new"]
    assert {run.info.run_id for run in client.search_runs([experiment.experiment_id])} == {s.run_id for s in sinks}


class Silent(socketserver.BaseRequestHandler):
    """A server that accepts and never answers."""

    def handle(self) -> None:
        time.sleep(5)


class Other(BaseHTTPRequestHandler):
    """A web server that is not MLflow's; ``status`` is what it answers."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b"<html>")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def served(handler: type[socketserver.BaseRequestHandler]) -> Iterator[str]:
    """The address of a server on loopback."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://user:word@127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    ("handler", "status", "message"),
    [
        (Silent, 0, "no answer within 1 seconds"),
        (Other, 200, "is no MLflow server"),
        (Other, 404, r"is no MLflow server \(404\)"),
        (Other, 401, r"refuses to answer \(401\); set MLFLOW_TRACKING_USERNAME"),
        (Other, 503, r"fails to answer \(503\)"),
    ],
)
def test_what_is_no_working_server_is_told_before_anything_is_read(
    handler: type[socketserver.BaseRequestHandler],
    status: int,
    message: str,
    write_recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reaching, "SECONDS", 1)
    monkeypatch.setattr(Other, "status", status)
    with served(handler) as uri, pytest.raises(TrackingError, match=message) as caught:
        lines_pipeline.run(write_recipe(TIES_LINES), out="out", tracking_uri=uri)
    assert "--no-tracking" in str(caught.value) and "word" not in str(caught.value)
    assert not Path("out").exists()


def test_a_run_without_a_record_makes_no_store(write_recipe: Recipe) -> None:
    result = lines_pipeline.run(write_recipe(TIES_LINES), out="out", tracking=False)
    assert result.run_id == result.tracking_uri == "" and result.files[0].is_file()
    assert not Path("mlflow.db").exists()


@pytest.mark.slow
def test_a_killed_run_is_recorded_as_killed(write_recipe: Recipe) -> None:
    script = (
        "import os, signal, sys, time, lines_pipeline\n"
        "from lines_pipeline.core.events import StageFinished\n"
        "def die(event):\n"
        "    if isinstance(event, StageFinished): os.kill(os.getpid(), signal.SIGKILL)\n"
        "lines_pipeline.run(sys.argv[1], out='out', cache=False, sinks=[die])\n"
    )
    recipe = write_recipe(TIES_LINES)
    lines_pipeline.run(recipe, out="before")
    killed = subprocess.run([sys.executable, "-c", script, str(recipe)], timeout=120, check=False)
    assert killed.returncode == -9
    client = MlflowClient(tracking_uri=resolve_uri(None))
    experiment = experiment_id(client, "lines-pipeline")
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
