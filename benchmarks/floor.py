"""The floor of any merge: how long it takes to read its inputs once and sum their numbers; and to write its output."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

BLOCK_BYTES = 256 * 1024
STRIPE_BYTES = 256 * BLOCK_BYTES


def seconds_to_sum(paths: Sequence[Path], threads: int | None = None) -> float:
    """Wall time to read every byte of ``paths`` in blocks of 256 KB and sum them as float32, one thread a core."""
    torch.set_num_threads(1)
    threads = threads or os.cpu_count() or 1
    stripes = [(path, start) for path in paths for start in range(0, path.stat().st_size, STRIPE_BYTES)]
    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        list(pool.map(_sum_stripes, [stripes[index::threads] for index in range(threads)]))
        return time.perf_counter() - started


def seconds_to_write(folder: Path, file_bytes: int, written_bytes: int) -> float:
    """Wall time to write so many bytes over a new file of ``file_bytes``, in blocks of 512 KB, one thread a core."""
    threads, block = os.cpu_count() or 1, bytes(2 * BLOCK_BYTES)
    path = folder / "written.bin"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.truncate(descriptor, file_bytes)

    def write(first: int) -> None:
        for start in range(first * len(block), written_bytes, threads * len(block)):
            os.pwrite(descriptor, block, start % file_bytes)

    try:
        with ThreadPoolExecutor(threads) as pool:
            started = time.perf_counter()
            list(pool.map(write, range(threads)))
            return time.perf_counter() - started
    finally:
        os.close(descriptor)
        path.unlink()


def _sum_stripes(stripes: Sequence[tuple[Path, int]]) -> float:
    buffer = bytearray(BLOCK_BYTES)
    numbers = torch.frombuffer(buffer, dtype=torch.float32)
    total = 0.0
    for path, start in stripes:
        descriptor = os.open(path, os.O_RDONLY)
        for offset in range(start, start + STRIPE_BYTES, BLOCK_BYTES):
            count = os.preadv(descriptor, [buffer], offset) // 4
            total += float(numbers[:count].sum())
        os.close(descriptor)
    return total
