"""``esm``: the directions in which each task moves the answers of a layer, side by side and decorrelated."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Never

import torch
from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Beside, Granularity, Ids, Op, Port, Values
from lines_pipeline.ops.decompositions import (
    computed_as,
    decomposition_bytes,
    isotropic,
    leading_triplets,
    matrix_bytes,
    vectors_bytes,
)
from lines_pipeline.ops.drivers import Driver, DriverContext, Measured, Variant
from lines_pipeline.ops.kernels import Block, Value, running_sum
from lines_pipeline.ops.layer_names import is_transposed
from lines_pipeline.ops.schemas.beside import find_beside
from lines_pipeline.ops.schemas.difference import difference
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext
from lines_pipeline.ops.schemas.union import union
from lines_pipeline.ops.spectral import Matrices, SpectralParams
from lines_pipeline.ops.tsv_m import TsvM

_OTHERS = TsvM()
"""Merges the matrices that the statistics have nothing of."""


class EsmParams(SpectralParams):
    power: float = Field(2.0, description="Exponent of the scales by task, by column and by layer.", ge=0)
    eigenvalue_power: float = Field(0.15, description="Exponent of the eigenvalues that weigh directions.", ge=0)


class Esm(Op[EsmParams]):
    """Merges the matrices that the statistics have inputs of by the principal directions of their outputs' shifts, all
    other 2-D tensors but text_projection as ``tsv-m``, and scales each matrix by its norm over that of its kind.

    Differs from the source in what a kind is: all matrices whose names differ in numbers alone. Directions without a
    shift have no part, where the source fills them up, and a task that leaves a matrix as it is has none in it.
    """

    name = "esm"
    version = 2
    formula = (
        "2 iso([P_t w_t]) iso([w_t P_t^T tau_t n_t (c/mean c)^p]),  n_t = (|tau_t|/mean)^p,  P_t: R/N leading "
        "eigenvectors of tau_t X_t^T X_t tau_t^T,  w_t ~ eigenvalues^q;  each matrix times (norm/mean of its kind)^p"
    )
    source = "arXiv 2602.20208; kiddo127/ESM, ESM-ViT/src/utils/esm_utils.py and essential_subspace_decomposition.py"
    gives = EdgeType.DELTA
    inputs = {
        "models": Port(EdgeType.WEIGHTS, many=True),
        "base": Port(EdgeType.WEIGHTS, followed=True),
        "statistics": Port(EdgeType.STATISTICS, many=True, beside=True),
    }
    granularity = Granularity.TENSOR
    Params = EsmParams

    def check(self, params: EsmParams, counts: Mapping[str, int]) -> str | None:
        if counts["models"] != counts["statistics"]:
            return f"needs one of 'statistics' a model, got {counts['statistics']} for {counts['models']}"
        return None

    def schema(self, params: EsmParams, inputs: Mapping[str, Sequence[Schema]], context: SchemaContext) -> Schema:
        (base,) = inputs["base"]
        updates = [difference(context, base, model) for model in inputs["models"]]
        merged = union(context, updates)
        beside = find_beside(context, base, merged.tensors, inputs["statistics"], square=False)
        views = {step: named for update in updates for step, named in update.views.items()}
        notes = tuple(note for update in updates for note in update.notes)
        return replace(merged, beside=beside, views=views, notes=notes)

    def wants_whole(self, params: EsmParams, tensor: TensorSpec) -> bool:
        return params.decomposes(tensor)

    def working_bytes(self, params: EsmParams, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        return 3 * matrix_bytes(tensor) + _OTHERS.working_bytes(params, tensor, counts)

    def beside_bytes(self, params: EsmParams, tensor: TensorSpec, beside: TensorSpec) -> int:
        """Return the memory to decompose the shifts of one task, or of all tasks side by side, at most [out, out]."""
        outputs = tensor.numel // beside.shape[1]
        shifts, together = (replace(tensor, shape=(rows, outputs)) for rows in (beside.shape[0], outputs))
        own = matrix_bytes(beside) + 2 * matrix_bytes(shifts) + decomposition_bytes(shifts) + vectors_bytes(shifts)
        kept = 4 * matrix_bytes(together) + 4 * matrix_bytes(tensor)
        return kept + max(own + 8 * tensor.numel, decomposition_bytes(together))

    def apply(self, params: EsmParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Never]) -> Value:
        base: Block = inputs["base"][0]
        updates = Updates(inputs["models"], base)
        if not params.decomposes(tensor):
            return base * 0.0 if params.others == "base" else running_sum(list(updates)) / len(updates)
        tensor = params.as_matrix(tensor)
        matrices = Matrices(updates, tensor.shape)
        if not len(inputs["statistics"]):
            return _OTHERS.merge(params, matrices, tensor).reshape(-1)
        return _merged(params, matrices, inputs["statistics"], tensor).reshape(-1)

    def driver_bytes(self, params: EsmParams, inputs: Mapping[str, Sequence[Schema]]) -> int:
        """Return the memory of the whole update, and of what it is scaled to."""
        return 2 * inputs["base"][0].state_bytes

    def driver_of(self, params: EsmParams) -> Driver:
        """Scale by layer: the norms of all layers are known when each has been merged."""

        def scale(inputs: Ids, context: DriverContext) -> Variant:
            measured = Measured("scaled by layer", lambda: _by_layer(params, context.materialise(context.step)))
            return Variant(self, params, inputs, measured)

        return scale


class Updates(Sequence[Block]):
    """The task vectors of a tensor: each is computed when it is taken, and not kept."""

    def __init__(self, models: Sequence[Block], base: Block) -> None:
        self._models, self._base = models, base

    def __len__(self) -> int:
        return len(self._models)

    def __getitem__(self, index: int) -> Block:  # type: ignore[override]
        return self._models[index] - self._base


def _merged(params: EsmParams, matrices: Matrices, inputs: Sequence[Block], tensor: TensorSpec) -> torch.Tensor:
    """Return the merged matrix, not scaled by layer yet."""
    first: Beside = inputs[0]
    turned = is_transposed(first.name, first.value.shape[1], tensor)
    outputs, width = tensor.shape[::-1] if turned else tensor.shape
    count = len(matrices)
    rank = int(outputs * (1 / count))
    left, right = (
        torch.zeros(size, dtype=computed_as(tensor), device=first.value.device)
        for size in ((outputs, rank * count), (rank * count, width))
    )
    norms = []
    for task in range(count):
        update = (matrices[task].T if turned else matrices[task]).contiguous()
        place = slice(task * rank, (task + 1) * rank)
        norms.append(float(update.double().square().sum().sqrt()))
        _place(params, update, inputs[task].value, left[:, place], right[place])
        right[place] *= norms[task] ** params.power
    if not rank or not any(norms):
        return left.new_zeros(tensor.shape)
    right /= (sum(norms) / count) ** params.power
    columns = right.norm(dim=0)
    right *= (columns / columns.mean().clamp(min=torch.finfo(right.dtype).tiny)) ** params.power
    merged = 2 * isotropic(left) @ isotropic(right, rounding=0)
    return merged.T.contiguous() if turned else merged


def _place(
    params: EsmParams, update: torch.Tensor, rows: torch.Tensor, left: torch.Tensor, right: torch.Tensor
) -> None:
    """Write the weighted directions [out, rank] in which an update moves the outputs, and its part in each."""
    rank = left.shape[1]
    if not rank:
        return
    triplets = leading_triplets(rows.to(update.dtype) @ update.T, rank)
    eigenvalues = triplets.values.square()
    weights = (eigenvalues / (eigenvalues.sum() / rank)) ** params.eigenvalue_power
    weights = weights / (weights.sum() / rank)
    directions = triplets.right.double()
    left[:, : len(weights)] = directions * weights
    right[: len(weights)] = (directions * weights).T @ update.double()


def _by_layer(params: EsmParams, update: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Scale each matrix by the power of its norm over the mean norm of its kind."""
    kinds: defaultdict[tuple[str, torch.Size], list[str]] = defaultdict(list)
    norms: dict[str, float] = {}
    for name, value in update.items():
        if params.decomposes(TensorSpec(name, "float32", tuple(value.shape))):
            kinds[re.sub(r"\d+", "*", name), value.shape].append(name)
            norms[name] = float(value.double().square().sum().sqrt())
    scaled = dict(update)
    for names in kinds.values():
        mean = sum(norms[name] for name in names) / len(names)
        for name in names if mean else ():
            scaled[name] = update[name] * (norms[name] / mean) ** params.power
    return scaled
