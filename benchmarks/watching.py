"""Run a command and watch its whole process tree from outside: time, anonymous memory, bytes read and written."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

INTERVAL_SECONDS = 0.02


@dataclass(frozen=True)
class Command:
    """What to start, where, and the file that takes what it prints."""

    arguments: Sequence[str]
    folder: Path
    log: Path
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Limits:
    """When to kill a command."""

    anonymous_bytes: float
    seconds: float


@dataclass(frozen=True)
class Watched:
    """What a command did. Memory is the largest sum over its tree in any sample; bytes are those of its read and
    write calls, mapped files not included."""

    seconds: float
    processor_seconds: float
    """Of all its threads and processes, which other work on the machine changes little."""
    anonymous_peak_bytes: int
    mapped_peak_bytes: int
    """The most of mapped files that was in memory at once."""
    read_bytes: int
    written_bytes: int
    failure: str
    """Empty when the command ended well; otherwise why it did not."""


@dataclass
class _Peaks:
    anonymous: int = 0
    mapped: int = 0
    read: int = 0
    written: int = 0

    def take(self, pids: Sequence[int]) -> None:
        """Add a sample of these processes."""
        samples = [(_figures(pid, "status"), _figures(pid, "io")) for pid in pids]
        self.anonymous = max(self.anonymous, 1024 * sum(status.get("RssAnon", 0) for status, _ in samples))
        self.mapped = max(self.mapped, 1024 * sum(status.get("RssFile", 0) for status, _ in samples))
        self.read = max(self.read, sum(io.get("rchar", 0) for _, io in samples))
        self.written = max(self.written, sum(io.get("wchar", 0) for _, io in samples))


def watch(command: Command, limits: Limits) -> Watched:
    """Run ``command`` to its end, or to a limit, where its whole tree is killed."""
    with command.log.open("wb") as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            command.arguments,
            cwd=command.folder,
            env=command.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        peaks = _Peaks()
        killed = _watch_to_end(process.pid, peaks, limits, started)
        seconds = time.perf_counter() - started
        _, status, used = os.wait4(process.pid, 0)
    code = process.returncode = os.waitstatus_to_exitcode(status)
    failure = killed or (_describe(code, command.log) if code else "")
    sizes = (peaks.anonymous, peaks.mapped, peaks.read, peaks.written)
    return Watched(seconds, used.ru_utime + used.ru_stime, *sizes, failure)


def _watch_to_end(root: int, peaks: _Peaks, limits: Limits, started: float) -> str:
    """Sample until the process has ended, and once more then: a process not yet waited for still shows its bytes."""
    killed = ""
    while os.waitid(os.P_PID, root, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        peaks.take(list(_tree(root)))
        if not killed and (killed := _excess(peaks, limits, time.perf_counter() - started)):
            os.killpg(root, signal.SIGKILL)
        time.sleep(INTERVAL_SECONDS)
    peaks.take([root])
    return killed


def _excess(peaks: _Peaks, limits: Limits, seconds: float) -> str:
    if peaks.anonymous > limits.anonymous_bytes:
        return f"out of memory: killed at {limits.anonymous_bytes / 1e9:.3g} GB"
    return f"killed after {limits.seconds:.0f} s" if seconds > limits.seconds else ""


def _tree(root: int) -> Iterator[int]:
    yield root
    try:
        tasks = list(Path(f"/proc/{root}/task").glob("*/children"))
    except FileNotFoundError:  # it has just ended
        return
    for task in tasks:
        for child in _text(task).split():
            yield from _tree(int(child))


def _figures(pid: int, name: str) -> dict[str, int]:
    """The lines ``key: number`` of a file of /proc; a process that is gone has none."""
    pairs = (line.partition(":")[::2] for line in _text(Path(f"/proc/{pid}/{name}")).splitlines())
    numbers = ((key, value.split()) for key, value in pairs)
    return {key: int(words[0]) for key, words in numbers if words and words[0].isdigit()}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""


def _describe(code: int, log: Path) -> str:
    """The last line that a failed command printed, or the signal that ended it."""
    lines = [line.strip() for line in log.read_text(errors="replace").replace("\r", "\n").splitlines()]
    last = next((line for line in reversed(lines) if line), "it printed nothing")
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit {code}: {last}"
