"""Clusters of real processes, on one network and on several: equal results, and clear errors where something is off."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
import yaml
from conftest import TIES_LINES
from dask_processes import DaskProcesses, connected
from safetensors.torch import load_file, save_file
from toy_suite import above, below, write_model, write_suite

import lines_pipeline
from lines_pipeline.core.errors import EngineError
from lines_pipeline.core.events import (
    Event,
    FileWritten,
    RunFinished,
    RunStarted,
    StageFinished,
    StageProgress,
    StageStarted,
)
from lines_pipeline.executor.schedulers import dask_cluster as cluster
from lines_pipeline.executor.schedulers import dask_connection as connection
from lines_pipeline.executor.schedulers.dask_cluster import Cluster
from lines_pipeline.ops.testing.cluster import local_cluster

Recipe = Callable[..., Path]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("shared_store"),
]


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[DaskProcesses]:
    """Starts schedulers and workers, and stops them all."""
    folder = tmp_path / "dask"
    folder.mkdir()
    processes = DaskProcesses(folder)
    try:
        yield processes
    finally:
        processes.stop()


def started(dask: DaskProcesses, workers: int = 2, **options: Any) -> str:
    """The address of a cluster on loopback with so many workers."""
    address = dask.scheduler()
    for _ in range(workers):
        dask.worker(address, **options)
    connected(address, workers)
    return address


IMAGES = (0.125, 0.375, 0.625, 0.875)


@pytest.fixture
def tuned(toy: Path) -> Path:
    """A recipe that tunes a scale over five values, two of them equally good, and judges two tasks on two splits."""
    write_model(toy / "base.safetensors", 0.0)
    write_model(toy / "a.safetensors", 1.0)
    splits = {"val": IMAGES, "test": IMAGES[:3]}
    tasks = {"rise": {s: above(*i) for s, i in splits.items()}, "fall": {s: below(*i) for s, i in splits.items()}}
    write_suite(toy, tasks)
    nodes = {
        "base": {"op": "load", "path": "base.safetensors"},
        "expert": {"op": "load", "path": "a.safetensors"},
        "update": {"op": "task-vector", "model": "expert", "base": "base"},
        "model": {"op": "apply", "base": "base", "delta": "update", "scale": 0.0},
        "val": {"op": "evaluate", "model": "model", "suite": "suite.yaml", "split": "val"},
        "test": {"op": "evaluate", "model": "model", "suite": "suite.yaml", "split": "test"},
        "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
    }
    tune: dict[str, Any] = {"parameters": {"model.scale": {"values": [0.25, 1.0, 0.9375, 0.5, 0.75]}}}
    tune |= {"objective": "2 * val.accuracy/rise + val.accuracy/fall"}
    path = toy / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "tuned", "nodes": nodes, "tune": tune}, sort_keys=False))
    return path


def told(events: list[Event]) -> list[Any]:
    """Events without what depends on the clock, on how a sweep was cut, and on files of an earlier run."""
    kept = [event for event in events if not isinstance(event, RunStarted | StageProgress | RunFinished)]
    kept = [replace(event, reused=False) if isinstance(event, FileWritten) else event for event in kept]
    return [(e.name, e.bytes_read, e.bytes_written) if isinstance(e, StageFinished) else e for e in kept]


def followed(recipe: Path, out: str | Path = "out", **options: Any) -> tuple[lines_pipeline.RunResult, list[Any]]:
    """A run that remembers nothing, and what it told."""
    events: list[Event] = []
    result = lines_pipeline.run(recipe, out=out, cache=False, sinks=[events.append], **options)
    return result, told(events)


def test_trials_and_evaluations_are_done_by_workers_and_give_the_same(
    dask: DaskProcesses, tuned: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, serially = followed(tuned, tmp_path / "out", scheduler="serial")
    content = expected.files[0].read_bytes()
    address = started(dask, 3, python=[toy / "python"])
    monkeypatch.setitem(sys.modules, "toy_encoder", None)  # the driver cannot measure anything itself
    monkeypatch.chdir(tuned.parent)
    result_there, together = followed(Path(tuned.name), tmp_path / "out", scheduler=address)
    assert together == serially
    assert (result_there.chosen, result_there.metrics) == (expected.chosen, expected.metrics)
    assert result_there.files[0].read_bytes() == content


def test_a_worker_without_the_model_factory_says_so(dask: DaskProcesses, tuned: Path) -> None:
    with pytest.raises(
        lines_pipeline.LinesError, match=r"worker tcp://127.* on .*node 'val': .*there is no module toy_encoder"
    ):
        followed(tuned, scheduler=started(dask, 1))


def test_a_scheduler_that_is_not_there(write_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(EngineError, match=f"scheduler {address}: no Dask scheduler answers there"):
        followed(write_recipe(TIES_LINES), scheduler=address)


def test_a_cluster_without_workers_is_not_waited_for_long(
    dask: DaskProcesses, write_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "PATIENCE_SECONDS", 0.5)
    address = dask.scheduler()
    with pytest.raises(EngineError, match=f"no workers for 0.5 seconds; start some: dask worker {address}"):
        followed(write_recipe(TIES_LINES), scheduler=address)


def at_the_first_sweep(act: Callable[[], object]) -> Callable[[Event], None]:
    """A sink that acts once, when a sweep begins."""
    numbers = itertools.count()

    def sink(event: Event) -> None:
        if isinstance(event, StageStarted) and next(numbers) == 0:
            act()

    return sink


def test_workers_that_are_all_lost_end_the_run(
    dask: DaskProcesses, write_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = started(dask, 1)
    monkeypatch.setattr(cluster, "PATIENCE_SECONDS", 1)
    kill = at_the_first_sweep(dask.started[-1].kill)
    with pytest.raises(EngineError, match="no workers for 1 seconds"):
        lines_pipeline.run(write_recipe(TIES_LINES), out="out", scheduler=address, sinks=[kill])
    assert not Path("out/model.safetensors").exists()


def test_a_scheduler_that_is_lost_ends_the_run(dask: DaskProcesses, write_recipe: Recipe) -> None:
    address = started(dask, 1)
    kill = at_the_first_sweep(dask.started[0].kill)
    with pytest.raises(EngineError, match=f"scheduler {address}: the connection was lost"):
        lines_pipeline.run(write_recipe(TIES_LINES), out="out", scheduler=address, sinks=[kill])


def test_a_scheduler_that_is_lost_while_tasks_run(dask: DaskProcesses) -> None:
    with closing(Cluster(started(dask, 1))) as driver:
        Timer(1, dask.started[0].kill).start()
        with pytest.raises(EngineError, match="the connection was lost"):
            driver.call(time.sleep, [60, 60])


def test_what_dask_logs_shows_secrets_by_name(
    dask: DaskProcesses, write_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = started(dask, 1)
    monkeypatch.setenv("LINES_SECRET", address)
    recipe = write_recipe(TIES_LINES, engine={"scheduler": "${env:LINES_SECRET}"})
    texts: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(self.format(record))

    def act() -> None:
        for failure in (OSError(f"no {address}"), None):
            logging.getLogger("distributed.core").error("from %s", address, exc_info=failure)

    handler, logger = Kept(), logging.getLogger("distributed")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        lines_pipeline.run(recipe, out="out", trust=True, sinks=[at_the_first_sweep(act)])
        logger.error("after the run: %s", address)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert texts.pop() == f"after the run: {address}"  # nothing stays behind
    assert any(text.startswith("Establishing connection to ${env:LINES_SECRET}") for text in texts)
    assert "from ${env:LINES_SECRET}" in texts
    assert any(text.endswith("OSError: no ${env:LINES_SECRET}") for text in texts)
    assert not [text for text in texts if address.removeprefix("tcp://") in text]


@pytest.fixture
def stop(dask: DaskProcesses) -> Iterator[Callable[[], None]]:
    """Stops the scheduler, as Ctrl-Z would; it goes on in the end, to be killed."""
    yield lambda: dask.started[0].send_signal(signal.SIGSTOP)
    dask.started[0].send_signal(signal.SIGCONT)


FROZEN = r"nothing was heard from it for [1-9]\d* seconds, .*See to it, or start another one, and run again"


def test_a_scheduler_that_freezes_ends_the_run(
    dask: DaskProcesses, write_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, stop: Callable[[], None]
) -> None:
    monkeypatch.setattr(cluster, "PATIENCE_SECONDS", 1)
    monkeypatch.setattr(connection, "PING_SECONDS", 0.5)
    address = started(dask, 1)
    statuses: list[Event] = []
    begun = time.monotonic()
    sinks = [at_the_first_sweep(stop), statuses.append]
    with pytest.raises(EngineError, match=f"scheduler {address}: {FROZEN}"):
        lines_pipeline.run(write_recipe(TIES_LINES), out="out", scheduler=address, sinks=sinks)
    assert time.monotonic() - begun < 30
    assert isinstance(statuses[-1], RunFinished) and statuses[-1].status == "FAILED"
    assert [path for path in Path("out").rglob("*") if path.is_file()] == []


def test_a_scheduler_that_freezes_while_tasks_run(
    dask: DaskProcesses, monkeypatch: pytest.MonkeyPatch, stop: Callable[[], None]
) -> None:
    monkeypatch.setattr(cluster, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(connection, "PING_SECONDS", 0.5)
    with closing(Cluster(started(dask, 1))) as driver:
        Timer(1, stop).start()
        with pytest.raises(EngineError, match=FROZEN):
            driver.call(time.sleep, [60, 60])


def test_a_scheduler_that_waits_for_long_tasks_is_not_taken_for_a_frozen_one(
    dask: DaskProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(connection, "PING_SECONDS", 2.0)
    with closing(Cluster(started(dask, 1))) as driver:
        assert driver.call(time.sleep, [6]) == [None]


def test_a_task_that_kills_worker_after_worker_ends_the_run() -> None:
    with (
        local_cluster() as workers,
        closing(Cluster(workers.scheduler_address)) as driver,
        pytest.raises(EngineError, match="4 workers died one after the other over the same task, most often for want"),
    ):
        driver.call(os._exit, [1])


def test_other_versions_on_a_worker_are_refused(dask: DaskProcesses, tmp_path: Path, write_recipe: Recipe) -> None:
    other = tmp_path / "other" / "torch-1.13.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.13.0\n")
    address = started(dask, 1, python=[other.parent])
    with pytest.raises(EngineError, match=r"worker tcp://127\S+ has torch 1\.13\.0 \(the driver: 2\.\S+\), so that"):
        followed(write_recipe(TIES_LINES), scheduler=address)


def in_a_mount_namespace(command: str) -> list[str]:
    """Runs what follows where ``command`` has changed the mounts, which nobody else sees; skips without rights."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "sh", "-c", command]).returncode:
        pytest.skip("mount namespaces need rights that this machine does not give")
    return ["unshare", "-m", "sh", "-c", f'{command} && exec "$@"', "sh"]


def test_a_folder_that_a_worker_does_not_see(dask: DaskProcesses, models: Path, write_recipe: Recipe) -> None:
    address = started(dask, 1, within=in_a_mount_namespace(f"mount -t tmpfs tmpfs {models}"))
    expected = (
        rf"worker tcp://127\S+ on {socket.gethostname()}: {models}/\w+\.safetensors: cannot be read.*every worker"
    )
    with pytest.raises(EngineError, match=expected):
        followed(write_recipe(TIES_LINES), scheduler=address)
    assert not Path("out/model.safetensors").exists()


def test_an_output_folder_that_a_worker_does_not_see(dask: DaskProcesses, tmp_path: Path, write_recipe: Recipe) -> None:
    (tmp_path / "out").mkdir()
    address = started(dask, 1, within=in_a_mount_namespace(f"mount -t tmpfs tmpfs {tmp_path}/out"))
    with pytest.raises(EngineError, match=rf"{tmp_path}/out/\S+: No such file or directory; workers read and write at"):
        followed(write_recipe(TIES_LINES), scheduler=address)


def test_another_file_at_the_same_path_is_noticed(
    dask: DaskProcesses, tmp_path: Path, models: Path, write_recipe: Recipe
) -> None:
    other = tmp_path / "b.safetensors"
    save_file({name: value * 2 for name, value in load_file(models / "b.safetensors").items()}, other)
    os.utime(other, (1, 1))
    address = started(dask, 1, within=in_a_mount_namespace(f"mount --bind {other} {models}/b.safetensors"))
    with pytest.raises(EngineError, match=r"b\.safetensors: \d+ bytes with a time of 1, the driver has"):
        followed(write_recipe(TIES_LINES), scheduler=address)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@dataclass(frozen=True)
class Networks:
    """Network namespaces, and the address at which processes outside are reached from them."""

    names: tuple[str, ...]
    host: str


@pytest.fixture
def networks() -> Iterator[Networks]:
    """Two network namespaces, joined with this one by a bridge; skips where none can be made."""
    number = os.getpid()
    bridge, subnet = f"lp{number % 100_000}", f"10.213.{number % 250}"
    two_networks = Networks(tuple(f"lines-{number}-{each}" for each in range(2)), f"{subnet}.1")
    try:
        ip("link", "add", bridge, "type", "bridge")
        ip("addr", "add", f"{two_networks.host}/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        for each, name in enumerate(two_networks.names):
            near, far = f"{bridge}n{each}", f"{bridge}f{each}"
            ip("netns", "add", name)
            ip("link", "add", near, "type", "veth", "peer", "name", far)
            ip("link", "set", near, "master", bridge, "up")
            ip("link", "set", far, "netns", name)
            ip("-n", name, "addr", "add", f"{subnet}.{each + 2}/24", "dev", far)
            ip("-n", name, "link", "set", far, "up")
            ip("-n", name, "link", "set", "lo", "up")
            ip("netns", "exec", name, "true")
    except (OSError, subprocess.CalledProcessError):
        _remove(bridge, two_networks.names)
        pytest.skip("network namespaces need rights that this machine does not give")
    try:
        yield two_networks
    finally:
        _remove(bridge, two_networks.names)


def _remove(bridge: str, names: Sequence[str]) -> None:
    if shutil.which("ip") is None:
        return
    for name in names:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
    subprocess.run(["ip", "link", "del", bridge], capture_output=True)


def test_workers_on_networks_of_their_own_give_the_same(
    networks: Networks, dask: DaskProcesses, tuned: Path, toy: Path, write_recipe: Recipe
) -> None:
    merged, (judged, _) = write_recipe(TIES_LINES), followed(tuned, scheduler="serial")
    expected = followed(merged, scheduler="serial")[0].files[0].read_bytes()
    address = dask.scheduler(networks.host)
    for name in networks.names:
        dask.worker(address, within=["ip", "netns", "exec", name], python=[toy / "python"])
    connected(address, 2)
    assert followed(merged, scheduler=address)[0].files[0].read_bytes() == expected
    again, _ = followed(tuned, scheduler=address)
    assert (again.chosen, again.metrics) == (judged.chosen, judged.metrics)
