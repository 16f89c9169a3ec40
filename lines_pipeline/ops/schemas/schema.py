"""The tensors of a value, and the step that a schema is made for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from lines_pipeline.core.tensor_specs import ITEM_BYTES, TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.io.checkpoint import Checkpoint
from lines_pipeline.ops.schemas.globs import Bounds, chooses, match_each
from lines_pipeline.ops.schemas.notes import TensorNote


@dataclass(frozen=True)
class Schema:
    """The tensors of a step's value.

    ``tensors`` holds stored data types, also for task vectors (computed in ``TensorSpec.compute_dtype``); ``names``
    all tensors of the model; ``sizes`` the number of values of its floating-point ones, from which layers are told;
    ``aliases`` second names of tied ones.
    """

    tensors: Mapping[str, TensorSpec]
    names: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)
    copied: Mapping[str, str] = field(default_factory=dict)
    """The input step whose value a tensor keeps as it is."""
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Shape of the leading region that counts, of a tensor that is zero and no part of any statistic beyond it."""
    views: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By input step: tensors that it has under another name or in another shape, and their names there."""
    beside: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By input step: tensors that something of it belongs to (a Gram matrix), and the name that this has there."""
    streamed: frozenset[str] = frozenset()
    """Tensors that come in blocks although the op takes such tensors whole."""
    left_out: frozenset[str] = frozenset()
    """Names that are not among ``tensors`` because the recipe drops them."""
    passthrough: Mapping[str, str] = field(default_factory=dict)
    """By integer or bool tensor of weights: the load step that it is copied from."""
    origin: str = ""
    """Where the tensors come from, for messages."""
    drops_extra: bool = False
    extra_remedy: str = ""
    """What to do about tensors that another model lacks; a value that was computed is bounded where it is used."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    partial: bool = False
    """Whether it may lack any tensor of the model: a task vector that was loaded."""
    notes: tuple[TensorNote, ...] = ()
    globs: Mapping[str, bool] = field(default_factory=dict)
    """Patterns of the node, and whether each matches a tensor here."""
    step: str = ""
    """The step whose value it is (set by the fold over the steps)."""
    exposed: frozenset[str] = frozenset()
    """Of a program's layout: views that other steps take, no tensors of its own."""

    @cached_property
    def numels(self) -> Mapping[str, int]:
        """Return the number of values that count of each floating-point tensor."""
        numels = {name: spec.numel for name, spec in self.tensors.items() if spec.is_floating}
        return numels | {name: replace(self.tensors[name], shape=shape).numel for name, shape in self.regions.items()}

    @cached_property
    def state_bytes(self) -> int:
        """Return the memory of all tensors under all names, floating-point ones in float32, as a module takes it."""
        return sum(
            len(self.all_names(name)) * spec.numel * ITEM_BYTES["float32" if spec.is_floating else spec.dtype]
            for name, spec in self.tensors.items()
        )

    @cached_property
    def ties(self) -> Mapping[str, tuple[str, ...]]:
        """Return the second names by tensor, of those that have any."""
        aliases: dict[str, tuple[str, ...]] = {}
        for alias, name in self.aliases.items():
            aliases[name] = (*aliases.get(name, ()), alias)
        return aliases

    def all_names(self, name: str) -> tuple[str, ...]:
        """Return the names of a tensor."""
        return (name, *self.ties.get(name, ()))

    def tensor(self, name: str) -> str | None:
        """Return the tensor that has ``name``, or None."""
        known = self.aliases.get(name, name)
        return known if known in self.tensors else None


@dataclass(frozen=True)
class SchemaContext:
    """The step that a schema is made for, as far as its op may ask."""

    step: str
    node: str
    gives: EdgeType
    bounds: Bounds = ((), ())
    """``include`` and ``exclude`` of the node."""
    checkpoint: Checkpoint | None = None
    """What a source has read the header of."""
    measured: Mapping[str, TensorSpec] | None = None
    """The tensors of a value that a driver has measured, where only that tells them (``Measured.tells_tensors``)."""

    @property
    def is_bounded(self) -> bool:
        """Return whether the node says ``include`` or ``exclude``."""
        return any(self.bounds)

    def chooses(self, names: tuple[str, ...]) -> bool:
        """Return whether the node keeps a tensor with these names."""
        return chooses(self.bounds, names)

    def globs(self, *schemas: Schema) -> dict[str, bool]:
        """Return the node's patterns, and whether each matches a floating-point tensor of any of these values."""
        if not self.is_bounded:
            return {}
        kept = ((schema, name) for schema in schemas for name, spec in schema.tensors.items() if spec.is_floating)
        return self.globs_among(alias for schema, name in kept for alias in schema.all_names(name))

    def globs_among(self, names: Iterable[str]) -> dict[str, bool]:
        """Return the node's patterns, and whether each matches any of ``names``."""
        include, exclude = self.bounds
        return match_each((*include, *exclude), names)

    def notes(self, cases: Mapping[str, Iterable[str]], origin: str) -> tuple[TensorNote, ...]:
        """Return notes of tensors of ``origin``, by reason; none where a reason has no tensors."""
        tensors = {reason: tuple(names) for reason, names in cases.items()}
        return tuple(TensorNote(self.node, names, reason, origin) for reason, names in tensors.items() if names)
