"""Random numbers that depend on names alone: equal for any order of tensors, blocks and workers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, Never

import numpy as np
import torch
from pydantic import Field
from typing_extensions import TypeVar

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Op, OpParams, Port, StepContext
from lines_pipeline.ops.kernels import Block

NUMBERS_A_COUNT = 8
"""32-bit numbers that Philox gives for each count."""


@dataclass(frozen=True)
class Draw:
    """Holds what the random numbers of a node depend on: its seed, and the name of its expert."""

    seed: int | None
    expert: str


class DrawParams(OpParams):
    density: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        description="Probability of keeping an entry: number or map by item."
    )
    rescale: Literal["density", "l1", "none"] = Field(
        "density", description="Divide by the density, restore the L1 norm of each tensor, or leave as is."
    )
    seed: int | None = Field(None, description="Seed of the draw; default the recipe's.", ge=0, lt=2**63)
    expert: str = Field("", description="Name that the draw goes by; default the item or the node of 'delta'.")


Drawn = TypeVar("Drawn", bound=DrawParams)
S = TypeVar("S", default=Never)


class DrawingOp(Op[Drawn, S], Generic[Drawn, S]):
    """An op that drops entries of a task vector at random."""

    gives = EdgeType.DELTA
    inputs = {
        "delta": Port(EdgeType.DELTA, followed=True),
        "uniforms": Port(EdgeType.WEIGHTS, optional=True, is_path=True),
    }
    per_item = {"density": "delta"}

    def completed(self, params: Drawn, context: StepContext) -> Drawn:
        own: dict[str, Any] = {"seed": context.seed} if params.seed is None else {}
        own |= {} if params.expert else {"expert": context.labels["delta"][0]}
        return params.model_copy(update=own)


def uniforms(
    params: DrawParams | Draw, given: Sequence[Block], tensor: TensorSpec, position: int, like: Block
) -> torch.Tensor:
    """Return numbers in [0, 1): ``given`` ones, or draws for the entries of ``like`` from ``position`` on."""
    if given:
        value: torch.Tensor = given[0]
        return value
    numbers = drawn(params.seed or 0, params.expert, tensor.name, position, like.numel())
    return torch.from_numpy(numbers).to(like.device)


def drawn(seed: int, expert: str, tensor: str, position: int, count: int) -> np.ndarray[Any, Any]:
    """Return ``count`` numbers in [0, 1), multiples of 2**-24 in float32, from an entry of a tensor on.

    They are those of Philox 4x64-10, keyed by a hash of seed, expert and tensor, and counted from the tensor's start.
    """
    key = hashlib.blake2b("\0".join((str(seed), expert, tensor)).encode(), digest_size=16).digest()
    generator = np.random.Philox(key=np.frombuffer(key, "<u8"))
    generator.advance(position // NUMBERS_A_COUNT)
    before = position % NUMBERS_A_COUNT
    raw = np.asarray(generator.random_raw(-(-(before + count) // 2)), dtype="<u8").view("<u4")
    return (raw[before : before + count] >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)
