"""Finds or makes the experiment that a run belongs to, also where several runs do so at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lines_pipeline.core.errors import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEFAULT_EXPERIMENT = "lines-pipeline"


@dataclass(frozen=True)
class Target:
    """Names where a run goes: an experiment by its name or id, or a run that is there (``MLFLOW_RUN_ID``)."""

    experiment: str = DEFAULT_EXPERIMENT
    experiment_id: str = ""
    run_id: str = ""


USUAL = Target()
"""Where runs go if nothing is said."""


def resolve_target(tracking: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Target:
    """Return ``MLFLOW_RUN_ID``, the recipe's experiment as recorded, or ``MLFLOW_EXPERIMENT_NAME`` or ``_ID``."""
    run, written = environ.get("MLFLOW_RUN_ID", ""), tracking.get("experiment")
    if written:
        return Target(str(written), run_id=run)
    name, number = environ.get("MLFLOW_EXPERIMENT_NAME", ""), environ.get("MLFLOW_EXPERIMENT_ID", "")
    return Target(name or ("" if number else DEFAULT_EXPERIMENT), number, run)


def deleted(name: str, number: str) -> TrackingError:
    """Return the error for an experiment that was deleted."""
    restore = f"mlflow experiments restore --experiment-id {number}"
    return TrackingError(
        f"the experiment '{name}' was deleted; bring it back with '{restore}', or name another one "
        "(--set tracking.experiment=NAME)"
    )


def experiment_id(client: MlflowClient, target: Target, artifacts: str | None) -> str:
    """Return the id of an experiment, made where there is none; ``TrackingError`` for a deleted or missing one.

    Where another run makes it meanwhile, that one is taken.
    """
    from mlflow.exceptions import MlflowException

    if target.experiment_id and not target.experiment:
        try:
            experiment = client.get_experiment(target.experiment_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise TrackingError(f"MLFLOW_EXPERIMENT_ID is {target.experiment_id}, and no experiment has it") from error
        return _living(experiment)
    known = client.get_experiment_by_name(target.experiment)
    if known is None:
        try:
            return str(client.create_experiment(target.experiment, artifacts))
        except MlflowException:
            known = client.get_experiment_by_name(target.experiment)
            if known is None:
                raise
    if target.experiment_id and known.experiment_id != target.experiment_id:
        raise TrackingError(
            f"MLFLOW_EXPERIMENT_ID is {target.experiment_id}, but the experiment '{target.experiment}' of "
            f"MLFLOW_EXPERIMENT_NAME is {known.experiment_id}; set one of them"
        )
    return _living(known)


def _living(experiment: Any) -> str:
    if experiment.lifecycle_stage == "deleted":
        raise deleted(experiment.name, experiment.experiment_id)
    return str(experiment.experiment_id)
