"""Parts of samples: whole clusters, growing, and the same for a seed and task."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lines_pipeline.ops.sample_parts import SamplePart


@settings(deadline=None)
@given(
    clusters=st.lists(st.integers(0, 9), min_size=1, max_size=60),
    seed=st.integers(0, 2**63 - 1),
    shares=st.tuples(st.floats(0.01, 1.0), st.floats(0.01, 1.0)).map(sorted),
)
def test_a_part_has_whole_clusters_and_lies_within_every_larger_one(
    clusters: list[int], seed: int, shares: list[float]
) -> None:
    numbers = np.array(clusters)
    small, large = (SamplePart(share, seed).numbers("greek", len(numbers), numbers) for share in shares)
    assert len(small) > 0 and set(small.tolist()) <= set(large.tolist())
    for found, share in ((small, shares[0]), (large, shares[1])):
        kept = set(numbers[found].tolist())
        assert sorted(found.tolist()) == [n for n, cluster in enumerate(clusters) if cluster in kept]
        assert len(kept) == int(np.ceil(share * len(set(clusters))))


def test_without_clusters_each_sample_stands_alone() -> None:
    assert len(SamplePart(0.25).numbers("greek", 12)) == 3
    assert SamplePart(1.0).numbers("greek", 4).tolist() == [0, 1, 2, 3]
    assert len(SamplePart(0.5).numbers("greek", 0)) == 0


@pytest.mark.parametrize("other", [("greek", 1), ("digits", 0)])
def test_seed_and_task_decide(other: tuple[str, int]) -> None:
    first = SamplePart(0.5, 0).numbers("greek", 100).tolist()
    assert SamplePart(0.5, 0).numbers("greek", 100).tolist() == first
    assert SamplePart(0.5, other[1]).numbers(other[0], 100).tolist() != first


@settings(deadline=None)
@given(first=st.integers(1, 60), share=st.floats(0.01, 1.0), clusters=st.lists(st.integers(0, 9), min_size=1))
def test_the_first_samples_and_a_share_of_their_clusters(first: int, share: float, clusters: list[int]) -> None:
    numbers = np.array(clusters)
    whole = SamplePart(first=first).numbers("greek", len(numbers), numbers)
    assert whole.tolist() == list(range(min(first, len(numbers))))
    part = SamplePart(share, 3, first).numbers("greek", len(numbers), numbers)
    assert part.tolist() == SamplePart(share, 3).numbers("greek", len(whole), numbers[:first]).tolist()


def test_parts_that_differ_are_remembered_apart() -> None:
    parts = [SamplePart(), SamplePart(0.5), SamplePart(0.5, 1), SamplePart(first=5), SamplePart(0.5, 0, 5)]
    assert len({str(part.identity) for part in parts}) == len(parts)
