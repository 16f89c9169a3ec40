"""The process that records: what it takes, and what becomes of records that a store cannot take."""

from __future__ import annotations

import gc
import json
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from multiprocessing import Pipe
from pathlib import Path

import pytest
from conftest import TIES_LINES
from mlflow import MlflowClient
from typer.testing import CliRunner, Result

import lines_pipeline
from lines_pipeline import api
from lines_pipeline.cli.app import app
from lines_pipeline.core.events import Event, RunFinished, StageFinished
from lines_pipeline.tracking import recorder as recorders
from lines_pipeline.tracking.messages import Expect, Open, Send
from lines_pipeline.tracking.recorder_process import Records
from lines_pipeline.tracking.records import Head

Recipe = Callable[..., Path]


def test_objects_that_runs_of_one_process_make_can_be_collected() -> None:
    ours, theirs = Pipe()
    frozen = gc.get_freeze_count()
    with ours, theirs:
        Records(theirs)._do(Open(0, "http://127.0.0.1:9", Head("one", "http://127.0.0.1:9"), Path(), Path(), {}))
    assert gc.get_freeze_count() == frozen


def take_away(event: Event) -> None:
    """Take the database away once the run is in it and its first sweep is over."""
    if not isinstance(event, StageFinished) or Path("elsewhere.db").exists():
        return
    for _ in range(600):
        with suppress(sqlite3.Error), closing(sqlite3.connect("file:mlflow.db?mode=ro", uri=True)) as database:
            if database.execute("SELECT 1 FROM runs WHERE status = 'RUNNING'").fetchone():
                break
        time.sleep(0.1)
    shutil.move("mlflow.db", "elsewhere.db")
    Path("mlflow.db").mkdir()


def lost_in_mid_run(recipe: Path, out: str) -> api.RunResult:
    """A run whose database is taken away between its first sweep and its end."""
    return lines_pipeline.run(recipe, out=out, cache=False, sinks=[take_away])


def bring_back() -> None:
    Path("mlflow.db").rmdir()
    shutil.move("elsewhere.db", "mlflow.db")


def synced_once_it_is_let_go() -> Result:
    """Send what is kept; the recording process may hold the record for a moment after the run."""
    deadline = time.monotonic() + 20.0
    while not (completed := CliRunner().invoke(app, ["sync"])).exit_code and time.monotonic() < deadline:
        time.sleep(0.2)
    return completed


def test_a_store_that_fails_in_mid_run_costs_no_merge_and_is_sent_the_record_later(write_recipe: Recipe) -> None:
    recipe = write_recipe(TIES_LINES)
    whole = lines_pipeline.run(recipe, out="whole", cache=False)
    lost = lost_in_mid_run(recipe, "lost")
    assert lost.files[0].read_bytes() == whole.files[0].read_bytes()
    (kept,) = Path("lost").glob("record-*.jsonl")
    (warning,) = [note for note in lost.notes if "record" in note]
    assert warning.startswith("warning: tracking store sqlite:") and str(kept.absolute()) in warning
    assert "'lines-pipeline sync' sends it" in warning
    away = synced_once_it_is_let_go()
    assert away.exit_code == 1 and "is no file" in away.stderr and kept.is_file()
    bring_back()
    client = MlflowClient(tracking_uri=whole.tracking_uri)
    assert client.get_run(lost.run_id).info.status == "RUNNING"
    (sent,) = api.sync().sent
    assert (sent.name, sent.run_id, sent.status) == ("tested", lost.run_id, "FINISHED")
    recorded, recorded_later = (client.get_run(run).data for run in (whole.run_id, lost.run_id))
    assert recorded.params == recorded_later.params and recorded.metrics.keys() == recorded_later.metrics.keys()
    assert client.get_run(lost.run_id).info.status == "FINISHED" and not kept.exists()
    assert CliRunner().invoke(app, ["sync"]).stdout == "no records wait to be sent\n"


def test_a_record_that_is_sent_twice_is_one_run(write_recipe: Recipe) -> None:
    lost = lost_in_mid_run(write_recipe(TIES_LINES), "lost")
    bring_back()
    (kept,) = Path("lost").glob("record-*.jsonl")
    lines = kept.read_text().splitlines()
    lines[0] = json.dumps({**json.loads(lines[0]), "run_id": ""})  # as where the store failed before it told the id
    kept.write_text("\n".join([*lines, '{"at": 1, "ev']))  # and the machine in the middle of a line
    shutil.copy(kept, "copy.jsonl")
    client = MlflowClient(tracking_uri=lost.tracking_uri)
    histories = []
    for _ in range(2):
        (sent,) = api.sync(["lost"]).sent
        assert sent.run_id == lost.run_id
        histories.append(len(client.get_metric_history(lost.run_id, "lines/scale")))
        shutil.copy("copy.jsonl", kept)
    assert histories == [4, 4]


def test_a_recorder_that_hangs_or_dies_costs_no_merge(write_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorders, "PATIENCE_SECONDS", 1.0)

    def end(event: Event) -> None:
        if isinstance(event, StageFinished):
            recorders.recorder().end()

    result = lines_pipeline.run(write_recipe(TIES_LINES), out="out", cache=False, sinks=[end])
    assert result.files[0].is_file() and any("the process that records runs has ended" in note for note in result.notes)
    (sent,) = api.sync().sent
    assert MlflowClient(tracking_uri=result.tracking_uri).get_run(sent.run_id).info.status == "FINISHED"


def test_a_recorder_that_is_faster_than_the_run_is_not_waited_for(
    write_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = recorders.Recorder.send

    def send_and_dawdle(recorder: recorders.Recorder, message: Expect | Open | Send) -> None:
        send(recorder, message)
        if isinstance(message, Send) and isinstance(message.entry.event, RunFinished):
            assert recorder._connection.poll(30.0)
            time.sleep(0.5)

    monkeypatch.setattr(recorders.Recorder, "send", send_and_dawdle)
    monkeypatch.setattr(recorders, "PATIENCE_SECONDS", 2.0)
    result = lines_pipeline.run(write_recipe(TIES_LINES), out="out", cache=False)
    assert not [note for note in result.notes if "record" in note or "no answer" in note]


def test_a_cache_that_moves_after_the_recorder_began_is_where_records_are_found(
    write_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorders.recorder()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    lost = lost_in_mid_run(write_recipe(TIES_LINES), "lost")
    bring_back()
    (sent,) = api.sync().sent
    assert sent.run_id == lost.run_id


def test_a_run_that_fails_without_its_store_is_sent_as_failed(write_recipe: Recipe) -> None:
    def fail(event: Event) -> None:
        take_away(event)
        if isinstance(event, StageFinished):
            raise ValueError("a sink of the user's own")

    with pytest.raises(ValueError, match="own"):
        lines_pipeline.run(write_recipe(TIES_LINES), out="out", cache=False, sinks=[fail])
    bring_back()
    (sent,) = api.sync().sent
    assert sent.status == "FAILED"
