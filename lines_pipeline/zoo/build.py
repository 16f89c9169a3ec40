"""Builds experts that are missing or damaged on all cores, one process a core, with progress."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.events import Note, Sink, ZooProgress
from lines_pipeline.zoo.catalogue import is_sound, locate
from lines_pipeline.zoo.entries import ZooEntry


def build(uris: Sequence[str], emit: Sink = lambda event: None) -> list[Path]:
    """Fine-tune those of ``uris`` that are not there as they were built; returns the files of all, in order.

    A file that is there and does not have the digest noted of it, or has none, is built again and told in a note.
    Raises ``CheckpointError`` when a builder fails. Interrupting it leaves the finished experts, and no half ones.
    """
    entries = [locate(uri) for uri in uris]
    missing = {entry.uri: entry for entry in entries if not is_sound(entry)}
    for entry in missing.values():
        if entry.path.exists():
            emit(Note(f"{entry.uri}: {entry.path} does not have the digest that it was built with; it is built again"))
    if missing:
        _build(missing, emit)
    return [entry.path for entry in entries]


def _build(missing: Mapping[str, ZooEntry], emit: Sink) -> None:
    uris = list(missing)
    count = min(os.cpu_count() or 1, len(uris))
    workers = [_start(uris[index::count]) for index in range(count)]
    try:
        _follow(workers, missing, emit)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            assert worker.stderr is not None
            worker.stderr.close()


def _start(uris: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lines_pipeline.zoo.expert", *uris]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def _follow(workers: list[subprocess.Popen[str]], missing: Mapping[str, ZooEntry], emit: Sink) -> None:
    lines: SimpleQueue[str | None] = SimpleQueue()
    for worker in workers:
        Thread(target=_pump, args=(worker, lines), daemon=True).start()
    steps, total = dict.fromkeys(missing, 0), sum(entry.steps for entry in missing.values())
    open_pipes = len(workers)
    while open_pipes:
        line = lines.get()
        if line is None:
            open_pipes -= 1
            continue
        uri, step = line.split()
        steps[uri] = int(step)
        emit(ZooProgress(sum(steps.values()), total, uri))
    for worker in workers:
        if worker.wait():
            last = (worker.stderr.read() if worker.stderr else "").strip().splitlines()[-1:]
            raise CheckpointError(f"the zoo's experts could not be built: {''.join(last) or 'the builder was killed'}")


def _pump(worker: subprocess.Popen[str], lines: SimpleQueue[str | None]) -> None:
    assert worker.stdout is not None
    with worker.stdout:
        for line in worker.stdout:
            lines.put(line)
    lines.put(None)
