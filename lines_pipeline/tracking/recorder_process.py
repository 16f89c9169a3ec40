"""Records runs in a process that ``recorder.py`` starts: ``python -m lines_pipeline.tracking.recorder_process FD``.

What a store cannot take it keeps in a file. It ends with the process that started it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from lines_pipeline.core.errors import TrackingError
from lines_pipeline.core.events import RunFinished
from lines_pipeline.core.garbage import collect_seldom, uncollected
from lines_pipeline.tracking.loading import OWN_SETTINGS
from lines_pipeline.tracking.messages import Expect, Open, Reply, Send, kept_words
from lines_pipeline.tracking.records import KILLED, Entry, Head, Keeper

if TYPE_CHECKING:
    from lines_pipeline.tracking.mlflow import MlflowSink


@dataclass
class _Taken:
    """Holds one run in the recording process: its sink, or the keeper of its record where the store has failed."""

    sink: MlflowSink
    head: Head
    folder: Path
    cache: Path
    entries: list[Entry] = field(default_factory=list)
    failed: bool = False
    keeper: Keeper | None = None


@dataclass
class Records:
    """Keeps the open records of the recording process."""

    connection: Connection
    taken: dict[int, _Taken] = field(default_factory=dict)
    expected: dict[str, bytes | None] = field(default_factory=dict)
    """The stores that are prepared for the next run, with the content of databases still to be made."""
    messages: SimpleQueue[Any] = field(default_factory=SimpleQueue)
    """Messages to the process; None when nobody can ask any more. Read by a thread, so that runs never wait."""

    def listen(self) -> None:
        """Begin to read messages."""
        Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                self.messages.put(self.connection.recv())
        self.messages.put(None)

    def serve(self) -> None:
        """Serve requests until nobody can send any more; runs that are still open were killed."""
        while True:
            if self.messages.empty():
                self._flush()
            message = self.messages.get()
            if message is None:
                break
            self._do(message)
        for run in list(self.taken):
            self._record(run, Entry(int(time.time() * 1000), KILLED))

    def _do(self, message: Expect | Open | Send) -> None:
        from lines_pipeline.tracking.stores import prepare

        match message:
            case Expect(uri):
                with uncollected():
                    self.expected[uri] = prepare(uri)
            case Open():
                self._open(message)
            case Send(run, entry):
                self._record(run, entry)

    def _open(self, message: Open) -> None:
        from lines_pipeline.tracking.mlflow import MlflowSink
        from lines_pipeline.tracking.stores import prepare

        for name in [name for name in os.environ if name.startswith("MLFLOW_") and name not in OWN_SETTINGS]:
            if name not in message.environment:
                del os.environ[name]
        os.environ.update(message.environment)
        uri, target = message.uri, message.target
        new = self.expected.pop(uri) if uri in self.expected else prepare(uri)
        sink = MlflowSink(uri, new, record=message.head.record)
        self.taken[message.run] = _Taken(sink, message.head, message.folder, message.cache)
        if target is not None:
            self._reply(Reply(message.run, trouble=_trouble(lambda: sink.open(target))))

    def _record(self, run: int, entry: Entry) -> None:
        """Send an event to the store; write it to a file once the store has failed."""
        taken = self.taken[run]
        taken.entries.append(entry)
        if not taken.failed:
            self._attempt(run, lambda: taken.sink(entry.event, entry.at))
        elif taken.keeper is not None:
            with contextlib.suppress(OSError):  # a full disk: what fits is kept
                taken.keeper.add(entry)
        complete = isinstance(entry.event, RunFinished)
        if complete:
            del self.taken[run]
            if taken.keeper is not None:
                taken.keeper.close()
        self._reply(Reply(run, run_id=taken.sink.run_id, complete=complete))

    def _flush(self) -> None:
        for run, taken in self.taken.items():
            if not taken.failed:
                self._attempt(run, taken.sink.flush)

    def _attempt(self, run: int, act: Callable[[], None]) -> None:
        taken = self.taken[run]
        trouble = _trouble(act)
        refusals = taken.sink.refusals()
        if refusals:
            self._reply(Reply(run, trouble=f"tracking store {taken.head.uri} would not take {'; '.join(refusals)}"))
        if trouble:
            self._keep(taken)
            kept = str(taken.keeper.path) if taken.keeper else ""
            words = kept_words(kept) if kept else "and its record cannot be kept either: the disk may be full"
            self._reply(Reply(run, trouble=f"{trouble}. The run goes on; {words}", kept=kept))

    def _keep(self, taken: _Taken) -> None:
        taken.failed = True
        head = replace(taken.head, run_id=taken.sink.run_id)
        with contextlib.suppress(OSError):
            taken.keeper = Keeper(head, taken.folder, taken.entries, taken.cache)

    def _reply(self, reply: Reply) -> None:
        with contextlib.suppress(OSError):  # a run that was killed
            self.connection.send(reply)


def _trouble(act: Callable[[], None]) -> str:
    """Carry out an action; return the text of its ``TrackingError``, or an empty text."""
    try:
        act()
    except TrackingError as error:
        return str(error)
    return ""


def main(descriptor: int) -> None:
    """Serve the process at the other end of a socket."""
    collect_seldom()
    from lines_pipeline.tracking.loading import load_skinny_mlflow

    records = Records(Connection(descriptor))
    records.listen()
    with uncollected():
        load_skinny_mlflow()  # takes a second, while the run finds its inputs
    records.serve()


if __name__ == "__main__":
    main(int(sys.argv[1]))
