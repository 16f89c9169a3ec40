"""The checks that an author of ops uses: they pass for what is right, and say what is not."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any, TypedDict

import pytest
import torch

from lines_pipeline.ops import Delta, Mask, Weights, op
from lines_pipeline.ops.testing import (
    check_blocks,
    check_cluster,
    check_compiled,
    check_example,
    check_gpu,
    check_laws,
    check_op,
    check_pure,
)


class Said(TypedDict):
    """What every op here says of itself."""

    formula: str
    source: str


SAID: Said = {"formula": "max tau_t", "source": "a test"}


@op(**SAID, laws=["identity", "permutation", "scaling", "zeros"])
def upper(deltas: list[Delta], *, scale: float = 1.0) -> Delta:
    """Keeps the largest entry."""
    best = deltas[0]
    for delta in deltas[1:]:
        best = best + (delta - best) * (delta > best)
    return best * scale


@op(**SAID, granularity="tensor", laws=["permutation"])
def whole(models: list[Weights], kept: Mask) -> Weights:
    """Needs whole tensors."""
    total: Weights = sum(models[1:], models[0])
    return total.cumsum(0) * kept


def test_an_op_that_is_right_passes_every_check() -> None:
    check_op(upper)
    check_laws(upper, laws=["permutation", "scaling"], scale=0.5)
    check_op(whole)
    check_example(upper, {"deltas": [torch.tensor([1.0, -2.0]), torch.tensor([0.5, 1.0])]}, torch.tensor([1.0, 1.0]))
    pytest.importorskip("numba")
    assert check_compiled(upper)


def test_the_cluster_needs_no_port_of_its_own() -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # in use by another program, which is as well
            taken.bind(("127.0.0.1", 8787))
            taken.listen()
        check_cluster(upper)


@pytest.mark.parametrize("made", [upper, whole])
def test_an_op_that_no_package_offers_is_checked_on_a_cluster(made: Any) -> None:
    check_cluster(made)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same() -> None:
    assert check_gpu(upper)
    assert check_gpu(whole)


def test_each_check_says_what_is_wrong() -> None:
    @op(**SAID, laws=["identity"])
    def wrong(deltas: list[Delta], *, how: str) -> Delta:
        if how == "changes":
            deltas[0] += 1.0
        if how == "looks around":
            return deltas[0] - deltas[0].mean()
        if how == "random":
            return deltas[0] + torch.rand(1)
        if how == "affine":
            return deltas[0] + 1.0
        return deltas[0]

    with pytest.raises(AssertionError, match=r"'wrong' changes its input deltas\[0\]"):
        check_pure(wrong, how="changes")
    with pytest.raises(AssertionError, match="'wrong' gives something else each time"):
        check_pure(wrong, how="random")
    with pytest.raises(AssertionError, match=r"'wrong' gives other values in blocks of 1: it is not elementwise"):
        check_blocks(wrong, how="looks around")
    with pytest.raises(AssertionError, match="'wrong' breaks the law of identity"):
        check_laws(wrong, how="affine")
    for law in ("scaling", "permutation", "zeros"):
        with pytest.raises(AssertionError, match=f"'wrong' breaks the law of {law}"):
            check_laws(wrong, laws=[law], how="affine")
    with pytest.raises(
        AssertionError, match="there is no law 'harmony', expected one of: identity, permutation, scaling, zeros"
    ):
        check_laws(wrong, laws=["harmony"], how="first")
    with pytest.raises(AssertionError, match=r"'wrong' gives \[2.0\], expected \[3.0\]"):
        check_example(wrong, {"deltas": [torch.tensor([2.0])]}, torch.tensor([3.0]), how="first")
