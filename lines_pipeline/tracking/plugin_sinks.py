"""Opens sinks that installed packages offer, by name; leaves them alone once they fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from lines_pipeline.core.entry_points import SINKS, PluginEntry, entry_points_of
from lines_pipeline.core.errors import PluginError, did_you_mean
from lines_pipeline.core.events import Event, Note, Sink


class PluginSink:
    """Hands events on to a package's sink. Where that raises, ``on_trouble`` is told once, and it gets no more."""

    def __init__(self, entry: PluginEntry, sink: Callable[[Event], Any]) -> None:
        self._entry, self._sink, self._failed = entry, sink, False
        self.on_trouble: Callable[[str], None] = lambda text: None

    def __call__(self, event: Event) -> None:
        if self._failed:
            return
        try:
            self._sink(event)
        except Exception as error:  # the door of the sinks
            self._failed = True
            failure = f"sink '{self._entry.name}' of {self._entry.distribution} raised {type(error).__name__}: {error}"
            self.on_trouble(f"{failure}; it is told no more of this run")


def open_sinks(sinks: Iterable[Sink | str]) -> list[Sink]:
    """Return sinks as they are, and those named (``NAME`` or ``NAME=TEXT``) made by the packages that offer them.

    Raises ``PluginError`` where no package offers the name, or the sink cannot be made.
    """
    return [_made(sink) if isinstance(sink, str) else sink for sink in sinks]


def warn_of_failures(sinks: Iterable[Sink], emit: Sink) -> None:
    """Make a warning of each failure of a package's sink."""
    for sink in sinks:
        if isinstance(sink, PluginSink):
            sink.on_trouble = lambda text: emit(Note(text, warning=True))


def _made(named: str) -> PluginSink:
    name, given, text = named.partition("=")
    offered = entry_points_of(SINKS)
    if name not in offered:
        known = f"installed packages offer: {', '.join(offered)}" if offered else "no installed package offers any"
        raise PluginError(f"there is no sink '{name}'{did_you_mean(name, offered)}; {known}")
    entry = offered[name]
    factory = entry.load()
    try:
        sink = factory(text) if given else factory()
    except Exception as error:  # the door of the sinks
        raise PluginError(f"{entry} cannot be made: {type(error).__name__}: {error}") from error
    if not callable(sink):
        raise PluginError(f"{entry} gives a {type(sink).__name__}, expected a function of one event")
    return PluginSink(entry, sink)
