"""Parameters and metrics of MLflow runs side by side, what differs first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lines_pipeline.core.errors import UnknownRunError
from lines_pipeline.tracking.stores import connect, database


@dataclass(frozen=True)
class Row:
    """One parameter or metric of all runs; None where a run lacks it."""

    kind: str
    name: str
    values: tuple[Any, ...]

    @property
    def differs(self) -> bool:
        """Whether the runs disagree."""
        return len({str(value) for value in self.values}) > 1


@dataclass(frozen=True)
class Comparison:
    """The runs' names and ids, and their rows."""

    names: tuple[str, ...]
    run_ids: tuple[str, ...]
    rows: tuple[Row, ...]

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        rows = [{"kind": row.kind, "name": row.name, "values": row.values} for row in self.rows]
        return {"runs": self.run_ids, "names": self.names, "rows": rows}


def compare(runs: Sequence[str], uri: str) -> Comparison:
    """Compare runs, each given by its id, the beginning of it, or its name (the latest run of that name).

    Raises ``UnknownRunError`` for one that is not there.
    """
    path = database(uri)
    if path is not None and not path.is_file():
        raise UnknownRunError(f"{uri}: there is no such store; compare where runs were made, or give --tracking-uri")
    client = connect(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = [_find(client, experiments, run, uri) for run in runs]
    rows = [
        Row(kind, name, tuple(getattr(run.data, kind).get(name) for run in found))
        for kind in ("params", "metrics")
        for name in sorted({name for run in found for name in getattr(run.data, kind)})
    ]
    rows.sort(key=lambda row: not row.differs)
    names = tuple(run.info.run_name for run in found)
    return Comparison(names, tuple(run.info.run_id for run in found), tuple(rows))


def _find(client: Any, experiments: list[str], wanted: str, uri: str) -> Any:
    runs = client.search_runs(experiments, order_by=["attributes.start_time DESC"], max_results=5_000)
    exact = [run for run in runs if run.info.run_id == wanted]
    named = [run for run in runs if run.info.run_name == wanted]
    begun = [run for run in runs if run.info.run_id.startswith(wanted)] if len(wanted) >= 4 else []
    matches = exact or named[:1] or begun
    if len(matches) != 1:
        what = "several runs begin" if matches else "no run is named, or begins,"
        raise UnknownRunError(f"{uri}: {what} with '{wanted}'; give a run's id or name")
    return matches[0]
