"""Opens the scheduler that the settings of a run name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import torch

from lines_pipeline.core.plugins import Origin
from lines_pipeline.core.secrets import NO_SECRETS, Secrets
from lines_pipeline.executor.schedulers.base import Scheduler
from lines_pipeline.executor.schedulers.local import Serial, Threads
from lines_pipeline.planner.memory import EngineSettings


@contextmanager
def open_scheduler(
    settings: EngineSettings, secrets: Secrets = NO_SECRETS, plugins: Sequence[Origin] = ()
) -> Iterator[Scheduler]:
    """Open what ``settings.scheduler`` names, for one run. Raises ``EngineError`` for a cluster that cannot be used.

    What Dask logs of it has ``secrets`` by name; its workers load the same ``plugins``. In the end the caller's thread
    has as many threads of torch as before.
    """
    threads = torch.get_num_threads()
    try:
        if settings.scheduler == "serial":
            yield Serial(settings.workers)
        elif settings.scheduler == "threads":
            import dask.callbacks
            import dask.threaded  # noqa: F401 (while the recording process starts, and not within the first sweep)

            yield Threads(settings.workers)
        else:
            from lines_pipeline.executor.schedulers.dask_cluster import Cluster
            from lines_pipeline.executor.schedulers.dask_logs import hidden_dask_logs

            with hidden_dask_logs(secrets), closing(Cluster(settings.scheduler, plugins)) as cluster:
                yield cluster
    finally:
        torch.set_num_threads(threads)
