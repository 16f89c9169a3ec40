"""What the author of an op checks it with: examples by hand, laws, and that it gives the same however it is run."""

from __future__ import annotations

from typing import Any

from lines_pipeline.ops.base import AnyOp
from lines_pipeline.ops.testing.cluster import check_cluster
from lines_pipeline.ops.testing.examples import Inputs, apply_op, check_example, example_inputs
from lines_pipeline.ops.testing.laws import LAWS, check_laws
from lines_pipeline.ops.testing.sameness import check_blocks, check_compiled, check_gpu, check_pickles, check_pure

__all__ = [
    "LAWS",
    "apply_op",
    "check_blocks",
    "check_cluster",
    "check_compiled",
    "check_example",
    "check_gpu",
    "check_laws",
    "check_op",
    "check_pickles",
    "check_pure",
    "example_inputs",
]


def check_op(op: AnyOp | str, inputs: Inputs | None = None, **params: Any) -> None:
    """Check all that takes no cluster: purity, the laws that the op declares, blocks, compiling, GPU, pickles.

    ``inputs`` are tensors by port; by default some are made up. Raises ``AssertionError`` for what does not hold.
    """
    given = example_inputs(op) if inputs is None else inputs
    for check in (check_pure, check_laws, check_blocks, check_compiled, check_gpu, check_pickles):
        check(op, given, **params)
