"""Compares parameters, metrics, hashes and inputs of MLflow runs side by side, what differs first."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lines_pipeline.core.errors import UnknownRunError
from lines_pipeline.tracking.describing import RECIPE_TAG
from lines_pipeline.tracking.event_records import INPUTS_FILE
from lines_pipeline.tracking.names import means_first
from lines_pipeline.tracking.pairs import Row, paired_rows, samples_of
from lines_pipeline.tracking.stores import connect, database, shown

_HASHES = ("recipe_hash", "mlflow.source.git.commit", "git.dirty")
_SHORTEST_ID = 4


@dataclass(frozen=True)
class Comparison:
    """Holds the runs' names and ids, and their rows; ``notes`` say which of several runs a name was taken for."""

    names: tuple[str, ...]
    run_ids: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as ``--json`` prints it."""
        rows = [{"kind": row.kind, "name": row.name, "values": row.values} for row in self.rows]
        return {"runs": self.run_ids, "names": self.names, "rows": rows}


def compare(runs: Sequence[str], uri: str) -> Comparison:
    """Compare runs, each given by its id, the beginning of it, its name or its recipe's name.

    A name stands for the latest run that has it; given twice, for the two latest, the older one first. Raises
    ``UnknownRunError`` for one that is not there.
    """
    path = database(uri)
    if path is not None and not path.is_file():
        store = f"{shown(uri)}: there is no such store"
        raise UnknownRunError(f"{store}; compare where runs were made, or give --tracking-uri")
    client = connect(uri)
    every = list(_all_runs(client))
    notes: list[str] = []
    chosen = _chosen(every, runs, shown(uri), notes)
    sides = [_figures(client, run) for run in chosen]
    rows = [
        Row(kind, name, tuple(side[kind].get(name) for side in sides))
        for kind in ("params", "hashes", "inputs", "metrics")
        for name in sorted(
            {name for side in sides for name in side[kind]}, key=means_first if kind == "metrics" else None
        )
    ]
    rows.sort(key=lambda row: not row.differs)
    rows = [*paired_rows([samples_of(client, run) for run in chosen]), *rows]
    names = tuple(run.info.run_name for run in chosen)
    return Comparison(names, tuple(run.info.run_id for run in chosen), tuple(rows), tuple(notes))


def _all_runs(client: Any) -> Iterator[Any]:
    """Return every run, the latest first."""
    experiments, token = [experiment.experiment_id for experiment in client.search_experiments()], None
    while True:
        page = client.search_runs(
            experiments, order_by=["attributes.start_time DESC"], max_results=5_000, page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def _chosen(every: Sequence[Any], runs: Sequence[str], store: str, notes: list[str]) -> list[Any]:
    matches = {text: _matches(every, text, store) for text in runs}
    latest = {text: list(reversed(matches[text][:count])) for text, count in Counter(runs).items()}
    for text, count in Counter(runs).items():
        named = matches[text]
        if len(named) < count:
            message = f"{named[0].info.run_id[:8]} is the only run called '{text}'"
            raise UnknownRunError(f"{store}: {message}; it cannot be compared with itself")
        if len(named) > count:
            taken = ", ".join(f"{run.info.run_id[:8]} of {_when(run)}" for run in latest[text])
            notes.append(f"{len(named)} runs are called '{text}'; compared is the latest: {taken}")
    return [latest[text].pop(0) for text in runs]


def _matches(every: Sequence[Any], text: str, store: str) -> list[Any]:
    """Return the runs that a user's text may name, the latest first."""
    exact = [run for run in every if run.info.run_id == text]
    named = [run for run in every if text in (run.info.run_name, run.data.tags.get(RECIPE_TAG))]
    if exact or named:
        return exact or named
    begun = [run for run in every if len(text) >= _SHORTEST_ID and run.info.run_id.startswith(text)]
    if len(begun) != 1:
        number = "several runs begin" if begun else "no run is named, or begins,"
        raise UnknownRunError(f"{store}: {number} with '{text}'; give a run's id or name")
    return begun


def _when(run: Any) -> str:
    return datetime.fromtimestamp(run.info.start_time / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _figures(client: Any, run: Any) -> dict[str, Mapping[str, Any]]:
    """Return the parameters, metrics, hashes and inputs of a run, by kind."""
    tags = run.data.tags
    hashes = {name.removeprefix("mlflow.source."): tags[name] for name in _HASHES if name in tags}
    return {"params": run.data.params, "metrics": run.data.metrics, "hashes": hashes, "inputs": _inputs(client, run)}


def _inputs(client: Any, run: Any) -> Mapping[str, str]:
    """Return the digests of what a run read, by step; those of the first version are tags."""
    with suppress(Exception), TemporaryDirectory() as folder:  # whatever a store raises for what is not there
        if any(artifact.path == INPUTS_FILE for artifact in client.list_artifacts(run.info.run_id)):
            path = client.download_artifacts(run.info.run_id, INPUTS_FILE, folder)
            return {f"input {step}": digest for step, digest in json.loads(Path(path).read_bytes()).items()}
    tags: Mapping[str, str] = run.data.tags
    return {f"input {tag.removeprefix('input.')}": tags[tag] for tag in tags if tag.startswith("input.")}
