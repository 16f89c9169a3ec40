"""Wherever the work is done, the caller's process stays as it was, and nobody waits for a server that is none."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from threading import Thread

import pytest
import torch
from conftest import TIES_LINES
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.core.errors import CheckpointError, EngineError
from lines_pipeline.executor.schedulers import dask_connection as connection

Recipe = Callable[..., Path]


@pytest.mark.usefixtures("shared_store")
@pytest.mark.parametrize("scheduler", ["serial", "threads"])
def test_torch_is_left_as_it_was(scheduler: str, models: Path, write_recipe: Recipe) -> None:
    before = torch.get_num_threads()

    def state() -> tuple[object, ...]:
        return (
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
        )

    try:
        torch.set_num_threads(3)
        expected = state()
        lines_pipeline.run(write_recipe(TIES_LINES), out="out", scheduler=scheduler)
        assert state() == expected
        weights = load_file(models / "c.safetensors")
        weights["visual.proj"][0, 0] = float("nan")
        save_file(weights, models / "c.safetensors")
        with pytest.raises(CheckpointError, match="NaN"):
            lines_pipeline.run(write_recipe(TIES_LINES), out="out", scheduler=scheduler)
        assert state() == expected
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def server() -> Iterator[Callable[[bytes], str]]:
    """Starts servers that say some bytes to whoever connects, and nothing more; gives their addresses."""
    listening: list[socket.socket] = []

    def start(said: bytes) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listening.append(listener)
        Thread(target=serve, args=(listener, said), daemon=True).start()
        return f"tcp://127.0.0.1:{listener.getsockname()[1]}"

    def serve(listener: socket.socket, said: bytes) -> None:
        try:
            while True:
                with closing(listener.accept()[0]) as connection:
                    connection.sendall(said)
                    connection.recv(1 << 20)
                    connection.recv(1 << 20)
        except OSError:
            return

    yield start
    for listener in listening:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 Bad Request\r\n", b"SSH-2.0-OpenSSH_9.6\r\n", bytes(24)])
def test_a_server_that_is_no_scheduler(
    said: bytes, server: Callable[[bytes], str], write_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a dashboard, which waits for a browser to speak first."""
    pytest.importorskip("distributed")
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 1)
    address = server(said)
    with pytest.raises(
        EngineError, match=rf"scheduler {address}: no Dask scheduler answers there.*8787 is the port of"
    ):
        lines_pipeline.run(write_recipe(TIES_LINES), out="out", scheduler=address)
    assert not Path("out").exists()


def test_an_address_for_browsers(write_recipe: Recipe) -> None:
    pytest.importorskip("distributed")
    with pytest.raises(
        EngineError, match=r"no Dask scheduler answers there \(unknown address scheme.*8787 is the port"
    ):
        lines_pipeline.run(write_recipe(TIES_LINES), out="out", scheduler="http://127.0.0.1:8787/status")
