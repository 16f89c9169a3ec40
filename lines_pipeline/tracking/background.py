"""Passes events on to a slow sink in a thread of its own, so that a run does not wait for its records."""

from __future__ import annotations

from queue import SimpleQueue
from threading import Thread

from lines_pipeline.core.events import Event, RunFinished, Sink


class BackgroundSink:
    """Events reach ``sink`` in order, a little later.

    Its first error is raised once: at the next event, or by ``close``. After an error the sink is only told how the
    run finished.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._events: SimpleQueue[Event | None] = SimpleQueue()
        self._error: Exception | None = None
        self._thread = Thread(target=self._pass_on, name="tracking", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        self._events.put(event)
        self._raise()

    def close(self) -> None:
        """Wait until the sink has seen every event."""
        self._events.put(None)
        self._thread.join()
        self._raise()

    def _pass_on(self) -> None:
        failed = False
        while (event := self._events.get()) is not None:
            if failed and not isinstance(event, RunFinished):
                continue
            try:
                self._sink(event)
            except Exception as error:  # handed over to the thread that emits
                if not failed:
                    self._error = error
                failed = True

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
