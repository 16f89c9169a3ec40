"""Sends the records that stores could not take while their runs went on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lines_pipeline.core.errors import TrackingError
from lines_pipeline.core.events import RunFinished, RunStarted
from lines_pipeline.core.printable import printable_message
from lines_pipeline.core.secrets import NO_SECRETS, Secrets, by_value, named_in
from lines_pipeline.tracking.records import KILLED, Entry, Record, drop, goes_on, is_own, read_record, waiting
from lines_pipeline.tracking.stores import check_reachable, resolve_uri, shown


@dataclass(frozen=True)
class Sent:
    """Describes a record that was sent: its run, and the run's status."""

    name: str
    run_id: str
    status: str
    store: str


@dataclass(frozen=True)
class SyncReport:
    """Lists records that were sent, those whose run goes on, and why others were not sent."""

    sent: tuple[Sent, ...]
    running: tuple[str, ...]
    troubles: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as ``--json`` prints it."""
        return asdict(self)


def sync(folders: Sequence[Path], tracking_uri: str | None = None) -> SyncReport:
    """Send all records that wait in ``folders``, or that this user's runs left, and remove them.

    Each of this user's goes to its own store, or to ``tracking_uri``; one of somebody else's to that, or to the store
    of the environment. What a record's run has in the store already is left as it is, so that a record may be sent
    again. One that cannot be sent keeps no other from being sent.
    """
    for folder in folders:
        if not folder.is_dir():
            raise TrackingError(f"{folder}: no such folder; name the folders that runs wrote to")
    sent: list[Sent] = []
    running: list[str] = []
    troubles: list[str] = []
    for path in waiting(folders):
        try:
            if goes_on(path):
                running.append(str(path))
            else:
                sent.append(_sent(read_record(path), tracking_uri))
        except (TrackingError, OSError, ValueError) as error:  # also a record that vanishes, or a URI that is none
            troubles.append(printable_message(f"{error}; the record waits in {path}"))
    return SyncReport(tuple(sent), tuple(running), tuple(troubles))


def _sent(record: Record, tracking_uri: str | None) -> Sent:
    """Send a record; what its store takes from the environment is in no message."""
    secrets = NO_SECRETS if tracking_uri else Secrets(named_in(record.head.uri))
    with secrets.hiding():
        return secrets.hidden(_send(record, tracking_uri))


def _send(record: Record, tracking_uri: str | None) -> Sent:
    from lines_pipeline.tracking.mlflow import MlflowSink

    uri = _store(record, tracking_uri)
    check_reachable(uri)
    sink = MlflowSink(uri, record=record.head.record, resumes=True)
    sink.run_id = record.head.run_id
    entries = record.entries
    if not any(isinstance(entry.event, RunStarted) for entry in entries):
        raise TrackingError(f"{record.path}: holds no run that began; remove it")
    if not isinstance(entries[-1].event, RunFinished):
        entries = (*entries, Entry(entries[-1].at, KILLED))
    for entry in entries:
        sink(entry.event, entry.at)
    drop(record)
    last = entries[-1].event
    assert isinstance(last, RunFinished)
    return Sent(record.name, sink.run_id, last.status, shown(uri))


def _store(record: Record, tracking_uri: str | None) -> str:
    """Return the store of a record, whose credentials and secrets are not in it: by name, or those of the environment.

    What a record of somebody else's says is not followed: whoever wrote it would be sent credentials.
    """
    if tracking_uri:
        return resolve_uri(tracking_uri)
    usual, recorded = resolve_uri(None), record.head.uri
    if shown(usual) == recorded:
        return usual
    if not is_own(record):
        raise TrackingError(
            f"the store {recorded} of '{record.name}': no run of yours on this machine left this record; "
            "name the store that it is to go to with --tracking-uri"
        )
    own = by_value(recorded)
    if shown(usual) == own:
        return usual
    if "***" in own or "${env:" in own:
        raise TrackingError(
            f"the store {recorded} of '{record.name}': what stands there by name or as *** is not recorded; "
            "set the variables as for the run, or name the store with --tracking-uri"
        )
    return own
