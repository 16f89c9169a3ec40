"""Shows the trials of ``tune``: as a table, and as figures of the objective by trial and by parameter."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lines_pipeline.ops.figures import Figure
from lines_pipeline.ops.metrics_table import Cell, Table
from lines_pipeline.recipe.binding.tuning import TRIALS_FOLDER
from lines_pipeline.search.trials import Trial

TRIAL, OBJECTIVE, SHARE, OUTCOME = "trial", "objective", "share", "outcome"
"""Columns of the table; between the first two are those of the parameters, and metrics come last."""
DATA_PATH = f"{TRIALS_FOLDER}/trials.csv"


def plain_trials(trials: Sequence[Trial]) -> tuple[dict[str, Any], ...]:
    """Return the trials in plain values, with the metrics of those that were judged by all samples."""
    return tuple(
        {
            TRIAL: trial.number,
            "values": {name: _plain(value) for name, value in trial.values.items()},
            OBJECTIVE: trial.objective,
            SHARE: trial.share,
            OUTCOME: _outcome(trial),
            "cached": trial.cached,
            "metrics": dict(trial.metrics) if trial.is_complete else {},
        }
        for trial in trials
    )


def trial_figures(trials: Sequence[Trial], objective: str) -> list[Figure]:
    """Return figures with one table in common: a row a trial, whose objective is that on its share of the samples."""
    parameters = list(trials[0].values)
    table = _table(trials, parameters)
    pruned = not all(trial.is_complete for trial in trials)
    return [
        Figure(
            kind="scatter",
            table=table,
            x=x,
            y=(OBJECTIVE,),
            group=OUTCOME if pruned else "",
            title=objective if len(objective) <= 80 else "",
            path=f"{TRIALS_FOLDER}/{name}.svg",
            data_path=DATA_PATH,
        )
        for x, name in [(TRIAL, OBJECTIVE), *((name, name) for name in parameters)]
    ]


def _table(trials: Sequence[Trial], parameters: Sequence[str]) -> Table:
    metrics = dict.fromkeys(name for trial in trials if trial.is_complete for name in trial.metrics)
    columns = (TRIAL, *parameters, OBJECTIVE, SHARE, OUTCOME, *metrics)
    return Table(columns, tuple(_row(trial) for trial in trials))


def _row(trial: Trial) -> Mapping[str, Cell]:
    values = {name: _cell(value) for name, value in trial.values.items()}
    outcome: dict[str, Cell] = {OBJECTIVE: trial.objective, SHARE: trial.share, OUTCOME: _outcome(trial)}
    return {TRIAL: trial.number, **values, **outcome, **(trial.metrics if trial.is_complete else {})}


def _outcome(trial: Trial) -> str:
    return "complete" if trial.is_complete else "stopped"


def _plain(value: Any) -> Any:
    return list(map(_plain, value)) if isinstance(value, tuple | list) else value


def _cell(value: Any) -> Cell:
    """Return a value as a cell: lists and maps as JSON."""
    return value if isinstance(value, Cell) else json.dumps(_plain(value), ensure_ascii=False, default=str)
