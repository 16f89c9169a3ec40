"""Lists the values of ranges: ``{low: 0, high: 1, step: 0.1}`` stands for eleven exact decimals."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lines_pipeline.core.diagnostics import Diagnostic
from lines_pipeline.core.scalars import scalar_text, spelled, unspelled
from lines_pipeline.recipe.binding.validation import validated
from lines_pipeline.recipe.schema import MAX_GRID, Number, exact

_KEYS = frozenset({"low", "high", "step"})


class Range(BaseModel):
    """Declares a range of values; both ends are included."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    low: Number
    high: Number
    step: Annotated[Number, Field(gt=0)]

    @model_validator(mode="after")
    def _reaches_its_end(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"'low' ({self.low}) is above 'high' ({self.high})")
        steps = (exact(self.high) - exact(self.low)) / exact(self.step)
        if steps >= MAX_GRID:
            raise ValueError(f"the range has more than {MAX_GRID:,} values; take a larger 'step'")
        if steps != int(steps):
            last = exact(self.low) + int(steps) * exact(self.step)
            raise ValueError(f"steps of {self.step} from {self.low} do not reach {self.high}; set 'high' to {last}")
        return self


def listed_range(name: str, written: Any, diagnostics: list[Diagnostic]) -> Any:
    """Return the values of a range, spelled with the decimals of its step (or of its start, where that has more).

    What is no range comes back as it is; what is a wrong one leaves ``diagnostics``.
    """
    if not isinstance(written, Mapping) or not _KEYS & written.keys():
        return written
    plain = unspelled(written)
    bounds, of_range = validated(Range, plain, plain)
    diagnostics += [diagnostic.below(name) for diagnostic in of_range]
    if bounds is None:
        return written
    low, step = exact(bounds.low), exact(bounds.step)
    whole = all(isinstance(number, int) for number in (bounds.low, bounds.high, bounds.step))
    decimals = max(_decimals(written["step"]), _decimals(written["low"]))
    count = int((exact(bounds.high) - low) / step) + 1
    values = (low + index * step for index in range(count))
    return [spelled(int(value) if whole else float(value), f"{value:.{decimals}f}") for value in values]


def _decimals(number: Any) -> int:
    exponent = Decimal(scalar_text(number)).normalize().as_tuple().exponent if number else 0
    return max(-int(exponent), 0)
