"""Databases that are made in memory: the same as MLflow makes, put in place whole, and never over another one."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from lines_pipeline.core.events import RunFinished, RunStarted
from lines_pipeline.io.temporaries import temporary_path
from lines_pipeline.tracking.mlflow import MlflowSink
from lines_pipeline.tracking.new_databases import new_database, put_in_place
from lines_pipeline.tracking.stores import connect, prepare


def described(path: Path) -> tuple[list[str], list[tuple[object, ...]], list[tuple[object, ...]]]:
    """Lines of the schema, some of which MLflow writes in an order that changes; the revision; the experiments."""
    with closing(sqlite3.connect(path)) as database:
        statements = [sql for (sql,) in database.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")]
        lines = sorted(line.strip().rstrip(",") for statement in statements for line in statement.splitlines())
        experiments = "SELECT experiment_id, name, artifact_location, lifecycle_stage, workspace FROM experiments"
        return lines, [*database.execute("SELECT * FROM alembic_version")], [*database.execute(experiments)]


def test_a_database_made_in_memory_is_what_mlflow_makes(tmp_path: Path) -> None:
    content = new_database()
    assert content is not None
    put_in_place(content, tmp_path / "ours.db")
    MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/theirs.db").search_experiments()
    ours, theirs = described(tmp_path / "ours.db"), described(tmp_path / "theirs.db")
    assert ours == theirs
    assert len(ours[0]) > 100 and [row[1] for row in ours[2]] == ["Default"]
    with closing(sqlite3.connect(tmp_path / "ours.db")) as database:
        assert [*database.execute("PRAGMA integrity_check")] == [("ok",)]


def test_a_database_is_put_in_place_whole_and_never_over_another(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    put_in_place(b"first", path)
    put_in_place(b"second", path)
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_what_is_left_of_a_deleted_database_stays_out_of_a_new_one(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "mlflow.db"
    writer = (  # killed in a transaction that is on the disk in part
        "import os, signal, sqlite3, sys\n"
        "database = sqlite3.connect(sys.argv[1])\n"
        "database.executescript(f'PRAGMA journal_mode={sys.argv[2]}; PRAGMA cache_size=1; CREATE TABLE t (x)')\n"
        "for commit in (True, False):\n"
        "    database.executemany('INSERT INTO t VALUES (?)', [('x' * 1000,)] * 500)\n"
        "    database.execute('UPDATE t SET x = upper(x)')\n"
        "    if commit: database.commit()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", writer, str(path), mode], check=False)
    assert killed.returncode == -signal.SIGKILL
    path.unlink()
    assert [left.name for left in tmp_path.iterdir()]
    sink = MlflowSink(f"sqlite:///{path}", prepare(f"sqlite:///{path}"))
    sink(RunStarted("tested", "lines-pipeline", {"seed": 0}, {}, {}))
    sink(RunFinished("FINISHED", 1.0))
    assert MlflowClient(tracking_uri=sink.uri).get_run(sink.run_id).info.status == "FINISHED"
    with closing(sqlite3.connect(path)) as database:
        assert [*database.execute("PRAGMA integrity_check")] == [("ok",)]
        assert not [*database.execute("SELECT name FROM sqlite_master WHERE name = 't'")]


def test_a_second_name_that_a_killed_process_left_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mlflow.db"
    content = new_database()
    assert content is not None
    put_in_place(content, path)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with monkeypatch.context() as patched:
        patched.setattr(os, "getpid", lambda: ended.pid)
        second = temporary_path(path)
    os.link(path, second)
    connect(f"sqlite:///{path}")
    assert not second.exists() and path.stat().st_nlink == 1


def test_preparing_makes_no_file(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    new = prepare(uri)
    assert new is not None and not list(tmp_path.iterdir())
    assert [experiment.name for experiment in connect(uri, new).search_experiments()] == ["Default"]


@pytest.mark.parametrize("uri", ["sqlite:///{}/mlflow.db?timeout=20", "http://127.0.0.1:9"])
def test_other_stores_are_left_to_mlflow(tmp_path: Path, uri: str) -> None:
    assert prepare(uri.format(tmp_path)) is None


def test_where_none_can_be_made_in_memory_mlflow_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW", "5")  # refused by SQLAlchemy for those in memory
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    new = prepare(uri)
    assert new is None
    assert [experiment.name for experiment in connect(uri, new).search_experiments()] == ["Default"]


@pytest.mark.slow
@pytest.mark.parametrize("hidden", ["pandas", "pydantic"])  # MLflow cannot do without the second
def test_mlflow_is_loaded_without_what_is_for_models_where_it_can_be(hidden: str) -> None:
    program = (
        "import sys\n"
        "from lines_pipeline.tracking import loading\n"
        "loading._FOR_MODELS = (sys.argv[1],)\n"
        "loading.load_skinny_mlflow()\n"
        "from mlflow import MlflowClient\n"
        "print(sys.argv[1] in sys.modules)\n"
        "__import__(sys.argv[1])\n"
    )
    completed = subprocess.run([sys.executable, "-c", program, hidden], capture_output=True, text=True, check=False)
    assert (completed.stderr, completed.stdout) == ("", f"{hidden == 'pydantic'}\n")


def test_mlflow_is_loaded_whole_where_a_missing_package_shows_as_another_error() -> None:
    program = (
        "import sys\n"
        "from lines_pipeline.tracking import loading\n"
        "def load():\n"
        "    if 'numpy' in sys.modules: raise AttributeError('None has no ndarray')\n"
        "    print('whole')\n"
        "loading.load_mlflow = load\n"
        "loading.load_skinny_mlflow()\n"
    )
    completed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (completed.stderr, completed.stdout) == ("", "whole\n")


@pytest.mark.slow
def test_mlflow_is_loaded_whole_where_it_has_plugins(tmp_path: Path) -> None:
    (tmp_path / "plug.py").write_text("import numpy\nclass Store: ...\n")
    (tmp_path / "plug-1.0.dist-info").mkdir()
    (tmp_path / "plug-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n")
    (tmp_path / "plug-1.0.dist-info" / "entry_points.txt").write_text("[mlflow.artifact_repository]\nplug=plug:Store\n")
    program = (
        "import sys\n"
        "sys.path.append(sys.argv[1])\n"
        "from lines_pipeline.tracking.loading import load_skinny_mlflow\n"
        "load_skinny_mlflow()\n"
        "from mlflow.store.artifact import artifact_repository_registry as registry\n"
        "print('plug' in registry._artifact_repository_registry._registry)\n"
    )
    completed = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False)
    assert (completed.stderr, completed.stdout) == ("", "True\n")
