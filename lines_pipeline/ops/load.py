"""``load``: a checkpoint file, folder or URL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Op, OpParams


class Prefix(BaseModel):
    """Prefix of tensor names to take off, and one to put on."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    strip: str = ""
    add: str = ""


class Rename(BaseModel):
    """Regular expression (searched anywhere in a name) and its replacement, as in ``re.sub``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)
    from_: Annotated[str, Field(alias="from")]
    to: str


class LoadParams(OpParams):
    path: str = Field(description="A file, a folder, or a zoo://, hf://, s3://, gs:// or https:// URL.", min_length=1)
    prefix: Prefix = Field(Prefix(), description="Prefix normalisation: {strip: model., add: ''}.")
    rename: tuple[Rename, ...] = Field((), description="Renaming rules, applied in order.", strict=False)
    drop: tuple[str, ...] = Field((), description="Globs of tensors to leave out of everything.", strict=False)
    key: str = Field("", description="Which state dict of a torch file that nests several: state_dict, model.ema.")
    digest: str = Field(
        "",
        description="Content digest, as inspect prints it; other contents are refused.",
        pattern="^([0-9a-f]{64})?$",
    )
    on_extra: Literal["error", "drop"] = Field("error", description="What to do with tensors that the base lacks.")
    type: Literal["weights", "delta", "mask"] = Field(
        "weights", description="What the file holds: a model, or a task vector or mask that 'save' wrote."
    )


class Load(Op):
    """A checkpoint as it is stored; the engine reads its bytes block by block."""

    name = "load"
    formula = "theta"
    source = "safetensors format; torch.save zip format, read with weights_only=True"
    gives = EdgeType.WEIGHTS
    is_source = True
    Params = LoadParams

    def gives_for(self, written: Mapping[str, Any]) -> EdgeType:
        kinds = {str(kind): kind for kind in (EdgeType.WEIGHTS, EdgeType.DELTA, EdgeType.MASK)}
        return kinds.get(str(written.get("type", "weights")), EdgeType.WEIGHTS)
