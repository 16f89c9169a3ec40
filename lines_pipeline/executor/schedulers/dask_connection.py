"""The driver's connection to a Dask scheduler, which is waited for as long as it shows that it is there."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any

from lines_pipeline.core.errors import EngineError
from lines_pipeline.core.logs import LOG

CONNECT_SECONDS = 10
PING_SECONDS = 10.0
"""How long an answer is waited for before the scheduler is asked whether it is there, and how long that may take."""
MISSED_PINGS = 3
"""How often one after the other it may not say so. More than one: the driver itself may have been stopped meanwhile."""


class Connection:
    """A client of one scheduler. Raises ``EngineError`` where no scheduler answers, and where it falls silent."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.client = _connected(address)
        LOG.info("scheduler %s: connected", address)

    def ask(self, question: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Return what a method of the client gives."""
        try:
            return self.answer(question, *arguments, **options)
        except TimeoutError:
            raise
        except OSError as error:
            raise self.lost() from error

    def answer(self, question: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Return what a method gives, or raise what it or a task raised; wait as long as the scheduler is there."""
        answer = self._begin(_awaited(question, *arguments, **options))
        heard, missed = time.monotonic(), 0
        while not wait([answer], PING_SECONDS).done:
            if self._is_there():
                heard, missed = time.monotonic(), 0
                continue
            missed += 1
            LOG.info("scheduler %s: no sign of life", self.address)
            if missed >= MISSED_PINGS and not answer.done():
                answer.cancel()
                raise self._silent(time.monotonic() - heard)
        return answer.result()

    def tell(self, message: Callable[..., Any], *arguments: Any) -> None:
        """Call a method of the client in vain, where it does not matter, without waiting for long."""
        with suppress(Exception):
            self._begin(_awaited(message, *arguments)).result(PING_SECONDS)

    def close(self) -> None:
        """End the connection, whether the scheduler answers or not."""
        with suppress(TimeoutError):  # which would hide why the run ends
            self.client.close()

    def lost(self) -> EngineError:
        """Return the error for a connection that broke off."""
        return self.error("the connection was lost; run again, what is complete is kept")

    def error(self, message: str) -> EngineError:
        """Return an error that names the scheduler."""
        return EngineError(f"scheduler {self.address}: {message}")

    def _silent(self, seconds: float) -> EngineError:
        return self.error(
            f"nothing was heard from it for {seconds:.0f} seconds, though the connection stands: it is stopped, or its "
            "machine hangs. See to it, or start another one, and run again; what is complete is kept"
        )

    def _is_there(self) -> bool:
        """Ask for a sign of life, on a connection of its own."""
        try:
            return bool(self._begin(_kind_of_server(self.address, PING_SECONDS)).result())
        except OSError:
            return False

    def _begin(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Start work in the client's event loop, which runs in a thread of its own."""
        return asyncio.run_coroutine_threadsafe(work, self.client.loop.asyncio_loop)


async def _awaited(question: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call a method of the client; within its event loop they give something to wait for."""
    return await question(*arguments, **options)


def _connected(address: str) -> Any:
    try:
        from distributed import Client
    except ImportError as error:
        raise EngineError(
            f"scheduler {address}: needs the extra 'cluster': pip install 'lines-pipeline[cluster]'"
        ) from error
    try:
        with ThreadPoolExecutor(1) as elsewhere:  # the caller may have an event loop of its own
            kind = elsewhere.submit(asyncio.run, _kind_of_server(address, CONNECT_SECONDS)).result()
        if kind != "Scheduler":
            raise ValueError(f"but a {kind.lower()}")
        return Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except TimeoutError as error:
        silent = f"something took the connection and said nothing that Dask understands for {CONNECT_SECONDS} seconds"
        raise EngineError(f"scheduler {address}: no Dask scheduler answers there ({silent}){_PORTS}") from error
    except (OSError, ValueError) as error:
        hint = _PORTS if address.startswith("http") else ""
        raise EngineError(f"scheduler {address}: no Dask scheduler answers there ({error}){hint}") from error
    except _FOREIGN as error:
        raise EngineError(
            f"scheduler {address}: no Dask scheduler answers there, but another server{_PORTS}"
        ) from error


_FOREIGN = (TypeError, LookupError, MemoryError, OverflowError, struct.error)
"""What Dask raises, beside ``ValueError``, where it reads what a server of another kind says."""

_PORTS = (
    ". Give the address of the scheduler itself, tcp://HOST:8786 where nothing else was asked for; 8787 is the port of "
    "its dashboard, for browsers"
)


async def _kind_of_server(address: str, seconds: float) -> str:
    """Ask the server at an address what it is; return Dask's name of it: ``Scheduler``, ``Worker`` or ``Nanny``.

    Raises ``OSError``, of which ``TimeoutError`` is one, where nobody says so within ``seconds``.

    ``Client`` waits for ever where somebody takes the connection and says nothing, as dashboards do.
    """
    from distributed.comm import connect
    from distributed.core import send_recv
    from distributed.security import Security

    options = Security().get_connection_args("client")
    async with asyncio.timeout(seconds):
        connection = await connect(address, timeout=0.9 * seconds, **options)
        try:
            return str((await send_recv(connection, op="identity", reply=True))["type"])
        finally:
            connection.abort()
