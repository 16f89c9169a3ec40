"""The layer map that a step scales by."""

from __future__ import annotations

from lines_pipeline.core.errors import PlanError
from lines_pipeline.graph.graph import Step
from lines_pipeline.io.layers import LayerMap, find_layers, require_coverage
from lines_pipeline.ops.varying import ByBlock
from lines_pipeline.planner.schemas import Schema


def layers_of(step: Step, schema: Schema) -> LayerMap | None:
    """Return the layer map of a step whose op, or one of whose numbers, depends on depth; None for others.

    Raises ``PlanError``, about the node, where there is none or where it leaves out too much of what is scaled.
    """
    by_block = next((varying.path for varying in step.varying if isinstance(varying.by, ByBlock)), None)
    own = step.op.layer_pattern(step.params)
    patterns = own or ("auto" if by_block else None)
    if patterns is None:
        return None
    try:
        layers = find_layers(schema.sizes, patterns)
        require_coverage(layers, schema.tensors)
        for params in step.all_params:
            if wrong := step.op.check_depths(params, layers.depths):
                raise PlanError(wrong)
    except PlanError as error:
        raise error.in_node(step.node, None if own else by_block) from error
    return layers


def outside_notes(node: str, layers: LayerMap, schema: Schema) -> list[str]:
    """Return a warning for every repeated stack that is scaled and in no tower, with its share of the parameters."""
    return [
        f"node '{node}': '{stack.path}' is in no tower ({stack.reason}): {share:.1%} of the parameters are scaled "
        "as what is outside the blocks"
        for stack, share in layers.outside(schema.tensors)
    ]
