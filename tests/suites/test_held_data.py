"""Data that are held between evaluations: as far as they fit, and the same as those that are read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from lines_pipeline.suites.held_data import Batch, HeldData

BATCHES = [(torch.full((2, 4), float(number)), torch.tensor([number, number])) for number in range(3)]
NBYTES = 3 * (2 * 4 * 4 + 2 * 8)


@pytest.mark.parametrize(("room", "times"), [(NBYTES, 1), (NBYTES - 1, 2), (0, 2)])
def test_batches_are_read_again_unless_all_of_them_fit(room: int, times: int) -> None:
    held, reads = HeldData(room), []

    def read() -> Iterator[Batch]:
        reads.append(1)
        yield from BATCHES

    for _ in range(2):
        batches = list(held.batches("task", read))
        assert all(
            a is b
            for batch, expected in zip(batches, BATCHES, strict=True)
            for a, b in zip(batch, expected, strict=True)
        )
    assert len(reads) == times


def test_what_came_first_stays_and_takes_its_room() -> None:
    held = HeldData(10)
    assert held.data("a", lambda: "first", len) == "first"
    assert held.data("b", lambda: "longer", len) == "longer"
    assert held.data("a", lambda: "again", len) == "first"
    assert held.data("b", lambda: "other", len) == "other"
    assert held.room == 0


def test_batches_that_are_not_read_to_the_end_are_not_held() -> None:
    held = HeldData(NBYTES)
    next(held.batches("task", lambda: iter(BATCHES)))
    assert len(list(held.batches("task", lambda: iter(BATCHES)))) == 3
