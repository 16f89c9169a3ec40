"""Records runs in a process of its own: MLflow is slow to load, and the process outlives a run that is killed.

``python -m lines_pipeline.tracking.recorder FD`` is that process; it ends with the one that started it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from lines_pipeline.core.errors import TrackingError
from lines_pipeline.core.events import Event, RunFinished, RunStarted
from lines_pipeline.core.garbage import collect_seldom, uncollected

if TYPE_CHECKING:
    from lines_pipeline.tracking.mlflow import MlflowSink


@dataclass(frozen=True)
class _Expect:
    """A run will begin soon, unless a mistake is found before."""

    uri: str


@dataclass(frozen=True)
class _Open:
    """A run begins: where its record goes, and what MLflow reads from the environment."""

    run: int
    uri: str
    environment: Mapping[str, str]


@dataclass(frozen=True)
class _Record:
    """An event of a run; ``RunFinished`` is the last, and is always answered."""

    run: int
    event: Event


@dataclass(frozen=True)
class _Reply:
    """What became of a run's record: its first error, or that it is complete, with the id it has."""

    run: int
    run_id: str = ""
    error: str = ""
    complete: bool = False


class Recorder:
    """The process that records, as the runs of this process see it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "lines_pipeline.tracking.recorder", str(theirs.fileno())]
        quiet = None if os.environ.get("LINES_PIPELINE_TRACEBACK") else subprocess.DEVNULL
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=quiet,
            stderr=quiet,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # for where MLflow loads NumPy: its threads would spin
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C is for the run, which then says how it ended
        )
        theirs.close()
        self._connection = Connection(ours.detach())
        self._numbers = itertools.count()
        self._replies: dict[int, list[_Reply]] = {}
        self._lock = Lock()

    @property
    def alive(self) -> bool:
        """Whether the process is still there."""
        return self._process.poll() is None

    def expect(self, uri: str) -> None:
        """Prepare for a run that will be recorded in a store."""
        self.send(_Expect(uri))

    def open(self, uri: str) -> Recording:
        """A sink for the events of one run."""
        run = next(self._numbers)
        environment = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
        self.send(_Open(run, uri, environment))
        return Recording(self, run, uri)

    def send(self, message: _Expect | _Open | _Record) -> None:
        """Pass a message on; ``TrackingError`` where the process is gone."""
        try:
            with self._lock:
                self._connection.send(message)
        except OSError as error:
            raise TrackingError(f"the process that records runs has ended ({error}); run again") from error

    def reply(self, run: int, *, wait: bool) -> _Reply | None:
        """The next reply about a run; None where there is none yet and ``wait`` is off."""
        try:
            with self._lock:
                while (wait and not self._replies.get(run)) or self._connection.poll():
                    found = self._connection.recv()
                    self._replies.setdefault(found.run, []).append(found)
        except (OSError, EOFError) as error:
            raise TrackingError("the process that records runs has ended; run again") from error
        return self._replies[run].pop(0) if self._replies.get(run) else None


@dataclass
class Recording:
    """One run's record. Its first error is raised once, by one of the next events.

    ``RunFinished`` waits until everything is recorded; ``run_id`` is known from then on. A run that never started has
    no record to wait for.
    """

    recorder: Recorder
    run: int
    uri: str
    run_id: str = field(default="", init=False)
    _started: bool = field(default=False, init=False)

    def __call__(self, event: Event) -> None:
        self.recorder.send(_Record(self.run, event))
        self._started = self._started or isinstance(event, RunStarted)
        last, error = self._started and isinstance(event, RunFinished), ""
        while reply := self.recorder.reply(self.run, wait=last):
            error = error or reply.error
            if reply.complete:
                self.run_id = reply.run_id
                break
        if error:
            raise TrackingError(error)


@cache
def _started() -> list[Recorder]:
    return []


def recorder() -> Recorder:
    """This process's recorder, started when first asked for: loading MLflow takes seconds, so ask early."""
    running = _started()
    if not running or not running[-1].alive:
        running[:] = [Recorder()]
    return running[-1]


def expect_run(recipe: Path, sets: Mapping[str, Any], tracking_uri: str | None) -> None:
    """Let the recorder prepare for the run of a recipe, before anything large is imported here."""
    from lines_pipeline.recipe.load import load_recipe
    from lines_pipeline.tracking.stores import resolve_uri

    recorder().expect(resolve_uri(tracking_uri or load_recipe(recipe, sets).tracking.uri))


@dataclass
class _Records:
    """The recording process: the records that are open, and whether they failed."""

    connection: Connection
    sinks: dict[int, MlflowSink] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)
    expected: dict[str, bytes | None] = field(default_factory=dict)
    """Stores that are prepared for the next run, with the content of databases still to be made."""

    def serve(self) -> None:
        """Do what is asked until nobody can ask any more; runs that are still open were killed."""
        while True:
            try:
                if not self.connection.poll():
                    self._flush()
                message = self.connection.recv()
            except (EOFError, OSError):
                break
            self._do(message)
        for run in list(self.sinks):
            self._record(run, RunFinished("KILLED", 0.0, "the run's process ended without a word"))

    def _do(self, message: _Expect | _Open | _Record) -> None:
        from lines_pipeline.tracking.mlflow import MlflowSink
        from lines_pipeline.tracking.stores import prepare

        match message:
            case _Expect(uri):
                with uncollected():
                    self.expected[uri] = prepare(uri)
            case _Open(run, uri, environment):
                os.environ.update(environment)
                new = self.expected.pop(uri) if uri in self.expected else prepare(uri)
                self.sinks[run] = MlflowSink(uri, new)
            case _Record(run, event):
                self._record(run, event)
                if isinstance(event, RunFinished):
                    self._reply(_Reply(run, run_id=self.sinks.pop(run).run_id, complete=True))

    def _record(self, run: int, event: Event) -> None:
        """After its first error a record is only told how the run finished."""
        if run not in self.failed or isinstance(event, RunFinished):
            self._attempt(run, lambda: self.sinks[run](event))

    def _flush(self) -> None:
        for run, sink in self.sinks.items():
            self._attempt(run, sink.flush)

    def _attempt(self, run: int, act: Callable[[], None]) -> None:
        try:
            act()
        except TrackingError as error:
            if run not in self.failed:
                self.failed.add(run)
                self._reply(_Reply(run, error=str(error)))

    def _reply(self, reply: _Reply) -> None:
        with contextlib.suppress(OSError):  # a run that was killed
            self.connection.send(reply)


def main(descriptor: int) -> None:
    """Serve the process at the other end of a socket."""
    collect_seldom()
    from lines_pipeline.tracking.loading import load_skinny_mlflow

    with uncollected():
        load_skinny_mlflow()  # takes a second, while the run finds its inputs
    _Records(Connection(descriptor)).serve()


if __name__ == "__main__":
    from lines_pipeline.tracking.recorder import main as serve  # messages name this module, not __main__

    serve(int(sys.argv[1]))
