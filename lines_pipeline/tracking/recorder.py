"""Records runs in a process of its own: MLflow is slow to load, and the process outlives a run that is killed.

What becomes of a record never ends a run that has begun, nor keeps it waiting for long.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from lines_pipeline.core.errors import TrackingError
from lines_pipeline.core.events import Event, RunFinished, RunStarted, StageProgress, ZooProgress
from lines_pipeline.core.secrets import without_credentials
from lines_pipeline.tracking.experiments import Target
from lines_pipeline.tracking.messages import Expect, Open, Reply, Send, kept_words
from lines_pipeline.tracking.records import Entry, Head, Keeper, records_folder

if TYPE_CHECKING:
    from lines_pipeline.recipe.recipe import Recipe

PATIENCE_SECONDS = 60.0
"""How long the recorder may be busy with one event: longer than a request with its repetitions."""
_GONE = "the process that records runs has ended"


class Recorder:
    """Starts the recording process, and exchanges messages with it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "lines_pipeline.tracking.recorder_process", str(theirs.fileno())]
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
        self._replies: dict[int, list[Reply]] = {}
        self._lock = Lock()
        atexit.register(self._leave)

    @property
    def alive(self) -> bool:
        """Return whether the process is still there."""
        return self._process.poll() is None

    def end(self) -> None:
        """End a process that no longer answers."""
        self._process.kill()

    def _leave(self) -> None:
        """Let go of the process, which records what it was told and ends by itself."""
        self._connection.close()
        self._process.returncode = 0  # else Python warns of a child that still runs

    def expect(self, uri: str) -> None:
        """Prepare for a run that will be recorded in a store."""
        with contextlib.suppress(OSError):  # told when the run begins
            self.send(Expect(uri))

    def open(self, uri: str, folder: Path, *, shown: str = "", target: Target | None = None) -> Recording:
        """Return a sink for the events of one run; ``shown`` is the store by the name that may be written down.

        The record is kept in ``folder`` where the store fails. With a ``target`` the store is tried first: raises
        ``TrackingError`` where it cannot be used.
        """
        run, head = next(self._numbers), Head(uuid.uuid4().hex, shown or without_credentials(uri))
        environment = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
        recording = Recording(self, run, head, folder.absolute())
        try:
            self.send(Open(run, uri, head, folder.absolute(), records_folder(), environment, target))
        except OSError as error:
            raise TrackingError(f"{_GONE} ({error}); run again") from error
        if target is not None:
            recording.wait_until_open()
        return recording

    def send(self, message: Expect | Open | Send) -> None:
        """Send a message; ``OSError`` where the process is gone."""
        with self._lock:
            self._connection.send(message)

    def reply(self, run: int, seconds: float = 0.0) -> Reply | None:
        """Return the next reply about a run; None without one in ``seconds``. ``OSError`` where the process is gone."""
        deadline = time.monotonic() + seconds
        while True:
            with self._lock:
                while self._connection.poll():
                    received = self._received()
                    self._replies.setdefault(received.run, []).append(received)
                if self._replies.get(run):
                    return self._replies[run].pop(0)
                seconds_left = deadline - time.monotonic()
                if seconds_left <= 0:
                    return None
                self._connection.poll(min(seconds_left, 1.0))

    def _received(self) -> Reply:
        try:
            reply: Reply = self._connection.recv()
        except EOFError as error:
            raise ConnectionError(str(error)) from error
        return reply


@dataclass
class Recording:
    """Sends one run's record. ``on_trouble`` is told once where the store fails; the run goes on, its record is kept.

    ``RunFinished`` waits until everything is recorded, or kept; ``run_id`` is known from then on. A run that never
    started has no record to wait for.
    """

    recorder: Recorder
    run: int
    head: Head
    folder: Path
    run_id: str = field(default="", init=False)
    on_trouble: Callable[[str], None] = field(default=lambda text: None, init=False)
    kept: str = field(default="", init=False)
    """The file with the record, where the store could not take it."""
    _entries: list[Entry] = field(default_factory=list, init=False)
    _gone: bool = field(default=False, init=False)
    _complete: bool = field(default=False, init=False)

    def __call__(self, event: Event) -> None:
        if isinstance(event, StageProgress | ZooProgress):
            return
        self._entries.append(Entry(int(time.time() * 1000), event))
        try:
            if not self._gone:
                self.recorder.send(Send(self.run, self._entries[-1]))
                while reply := self.recorder.reply(self.run):
                    self._take(reply)
        except OSError as error:
            self._gone = True
            self.on_trouble(f"{_GONE} ({error}), and this run goes on without it")
        if isinstance(event, RunFinished) and any(isinstance(entry.event, RunStarted) for entry in self._entries):
            self._finish()

    def wait_until_open(self) -> None:
        """Return when the store has taken the run; raises ``TrackingError`` where it does not."""
        try:
            reply = self.recorder.reply(self.run, PATIENCE_SECONDS)
        except OSError as error:
            raise TrackingError(f"{_GONE} ({error}); run again") from error
        if reply is None or reply.trouble:
            raise TrackingError(reply.trouble if reply else f"tracking store {self.head.uri}: no answer")

    def _take(self, reply: Reply) -> None:
        self._complete |= reply.complete
        self.run_id, self.kept = reply.run_id or self.run_id, reply.kept or self.kept
        if reply.trouble:
            self.on_trouble(reply.trouble)

    def _finish(self) -> None:
        """Wait until the record is complete; keep it in a file where the recorder stops answering."""
        try:
            while not (self._gone or self._complete):
                reply = self.recorder.reply(self.run, PATIENCE_SECONDS)
                if reply is None:
                    self.recorder.end()
                    self._gone = True
                    self.on_trouble(f"tracking store {self.head.uri}: no answer within {PATIENCE_SECONDS:g} seconds")
                else:
                    self._take(reply)
        except OSError as error:
            self._gone = True
            self.on_trouble(f"{_GONE} ({error})")
        if not self._complete:
            self._keep()

    def _keep(self) -> None:
        """Write the record to a file in this process: the recording process cannot."""
        try:
            keeper = Keeper(replace(self.head, run_id=self.run_id), self.folder, self._entries)
            keeper.close()
            self.kept = str(keeper.path)
            self.on_trouble(kept_words(self.kept))
        except OSError as error:
            self.on_trouble(f"the record of this run could not be kept either ({error})")


@cache
def _started() -> list[Recorder]:
    return []


def recorder() -> Recorder:
    """Return this process's recorder, and start it at the first call: loading MLflow takes seconds, so call early."""
    running = _started()
    if not running or not running[-1].alive:
        running[:] = [Recorder()]
    return running[-1]


def expect_run(recipe: Recipe, tracking_uri: str | None) -> None:
    """Let the recorder prepare for the run of a recipe, before anything large is imported here."""
    from lines_pipeline.tracking.stores import resolve_uri

    recorder().expect(resolve_uri(tracking_uri or recipe.tracking.uri))
