"""``graft``: put tensors of one model into another, such as a task's own head."""

from __future__ import annotations

from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Op, Port


class Graft(Op):
    """The tensors of ``donor`` that ``include`` names, in place of the model's or beside them, as the donor has them.

    Names that a file ties to one tensor stay tied, unless the donor has several tensors for them.
    """

    name = "graft"
    formula = "theta_donor where included, else theta"
    source = "multi-task models with a head a task, as in wang-kee/LiNeS, src/models/modeling.py"
    gives = EdgeType.WEIGHTS
    inputs = {"model": Port(EdgeType.WEIGHTS), "donor": Port(EdgeType.WEIGHTS)}
    needs_include = True
