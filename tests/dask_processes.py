"""A Dask scheduler and workers as processes of their own, started as a user starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class DaskProcesses:
    """Everything that was started, in ``folder``, which is no process's working directory by chance."""

    folder: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def scheduler(self, host: str = "127.0.0.1", *, within: Sequence[str] = ()) -> str:
        """Start a scheduler; returns its address. ``within`` is a command that runs the one after it."""
        address_file = self.folder / f"scheduler{len(self.started)}.json"
        options = ["--host", host, "--port", "0", "--no-dashboard", "--scheduler-file", str(address_file)]
        self._start([*within, sys.executable, "-m", "distributed.cli.dask_scheduler", *options], {})
        for _ in range(600):
            if address_file.exists() and address_file.read_text().endswith("}"):
                return str(json.loads(address_file.read_text())["address"])
            time.sleep(0.1)
        raise AssertionError("the scheduler did not start")

    def worker(
        self, scheduler: str, *, threads: int = 1, within: Sequence[str] = (), python: Sequence[Path] = ()
    ) -> subprocess.Popen[bytes]:
        """Start a worker; ``python`` are folders that it imports from before all others."""
        options = ["--nthreads", str(threads), "--no-nanny", "--no-dashboard", "--local-directory", str(self.folder)]
        command = [*within, sys.executable, "-m", "distributed.cli.dask_worker", scheduler, *options]
        searched = [*map(str, python), *filter(None, [os.environ.get("PYTHONPATH")])]
        return self._start(command, {"PYTHONPATH": os.pathsep.join(searched)})

    def stop(self) -> None:
        """Kill all of them."""
        for process in reversed(self.started):
            process.kill()
            process.wait()

    def _start(self, command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{len(self.started)}.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=os.environ | environment, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT
            )
        self.started.append(process)
        return process


def connected(address: str, workers: int) -> None:
    """Wait until a cluster has so many workers."""
    from distributed import Client

    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(workers, timeout=60)
