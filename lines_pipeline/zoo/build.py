"""Builds missing experts on all cores, one process a core, with progress."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.events import ZooProgress
from lines_pipeline.zoo.catalogue import locate
from lines_pipeline.zoo.training import FINE_TUNING


def build(uris: Sequence[str], report: Callable[[ZooProgress], None] = lambda progress: None) -> list[Path]:
    """Fine-tune those of ``uris`` that are not there yet; returns the files of all, in order.

    Raises ``CheckpointError`` when a builder fails. Interrupting it leaves the finished experts, and no half ones.
    """
    missing = [uri for uri in dict.fromkeys(uris) if not locate(uri).built]
    if missing:
        _build(missing, report)
    return [locate(uri).path for uri in uris]


def _build(uris: list[str], report: Callable[[ZooProgress], None]) -> None:
    count = min(os.cpu_count() or 1, len(uris))
    workers = [_start(uris[index::count]) for index in range(count)]
    try:
        _follow(workers, uris, report)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def _start(uris: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lines_pipeline.zoo.expert", *uris]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def _follow(workers: list[subprocess.Popen[str]], uris: list[str], report: Callable[[ZooProgress], None]) -> None:
    lines: SimpleQueue[str | None] = SimpleQueue()
    for worker in workers:
        Thread(target=_pump, args=(worker, lines), daemon=True).start()
    steps = dict.fromkeys(uris, 0)
    open_pipes = len(workers)
    while open_pipes:
        line = lines.get()
        if line is None:
            open_pipes -= 1
            continue
        uri, step = line.split()
        steps[uri] = int(step)
        report(ZooProgress(sum(steps.values()), len(uris) * FINE_TUNING.steps, uri))
    for worker in workers:
        if worker.wait():
            last = (worker.stderr.read() if worker.stderr else "").strip().splitlines()[-1:]
            raise CheckpointError(f"the zoo's experts could not be built: {''.join(last) or 'the builder was killed'}")


def _pump(worker: subprocess.Popen[str], lines: SimpleQueue[str | None]) -> None:
    assert worker.stdout is not None
    for line in worker.stdout:
        lines.put(line)
    lines.put(None)
