"""The floor of any merge: how long it takes to read its inputs once and sum their numbers."""

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
