"""Makes layer maps: finds each tensor's block and tower from the names and sizes of all tensors."""

from lines_pipeline.io.layers.finding import find_layers, require_coverage
from lines_pipeline.io.layers.maps import LayerMap, OutsideStack

__all__ = ["LayerMap", "OutsideStack", "find_layers", "require_coverage"]
