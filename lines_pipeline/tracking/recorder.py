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
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from lines_pipeline.core.errors import TrackingError
from lines_pipeline.core.events import Event, RunFinished
from lines_pipeline.core.garbage import collect_seldom

if TYPE_CHECKING:
    from lines_pipeline.tracking.mlflow import MlflowSink


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
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # threads that NumPy starts would spin beside the merge
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

    def open(self, uri: str) -> Recording:
        """A sink for the events of one run."""
        run = next(self._numbers)
        environment = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
        self.send(_Open(run, uri, environment))
        return Recording(self, run, uri)

    def send(self, message: _Open | _Record) -> None:
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

    ``RunFinished`` waits until everything is recorded; ``run_id`` is known from then on.
    """

    recorder: Recorder
    run: int
    uri: str
    run_id: str = field(default="", init=False)

    def __call__(self, event: Event) -> None:
        self.recorder.send(_Record(self.run, event))
        last, error = isinstance(event, RunFinished), ""
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


@dataclass
class _Records:
    """The recording process: the records that are open, and whether they failed."""

    connection: Connection
    sinks: dict[int, MlflowSink] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)

    def serve(self) -> None:
        """Do what is asked until nobody can ask any more; runs that are still open were killed."""
        while True:
            try:
                message = self.connection.recv()
            except (EOFError, OSError):
                break
            self._do(message)
        for run in list(self.sinks):
            self._record(run, RunFinished("KILLED", 0.0, "the run's process ended without a word"))

    def _do(self, message: _Open | _Record) -> None:
        from lines_pipeline.tracking.mlflow import MlflowSink

        match message:
            case _Open(run, uri, environment):
                os.environ.update(environment)
                self.sinks[run] = MlflowSink(uri)
            case _Record(run, event):
                self._record(run, event)
                if isinstance(event, RunFinished):
                    self.connection.send(_Reply(run, run_id=self.sinks.pop(run).run_id, complete=True))

    def _record(self, run: int, event: Event) -> None:
        """After its first error a record is only told how the run finished."""
        if run in self.failed and not isinstance(event, RunFinished):
            return
        try:
            self.sinks[run](event)
        except TrackingError as error:
            if run not in self.failed:
                self.failed.add(run)
                self.connection.send(_Reply(run, error=str(error)))


_NICENESS = 19
"""How far the recording process stands back behind the merge, which it runs beside."""


def _stand_back() -> None:
    """Linux weighs sessions before it weighs their processes, and this process has a session of its own."""
    os.nice(_NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(_NICENESS))


def main(descriptor: int) -> None:
    """Serve the process at the other end of a socket."""
    _stand_back()
    collect_seldom()
    import mlflow  # noqa: F401 (takes a second, while the run finds its inputs)

    _Records(Connection(descriptor)).serve()


if __name__ == "__main__":
    from lines_pipeline.tracking.recorder import main as serve  # messages name this module, not __main__

    serve(int(sys.argv[1]))
