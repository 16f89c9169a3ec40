"""How a stage plan gets to a cluster's workers: as bytes, opened once the plug-ins of the recipe are there."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from types import FunctionType, ModuleType
from typing import Any

from lines_pipeline.core.plugins import FileOrigin, Origin
from lines_pipeline.planner.tasks import StagePlan


@dataclass(frozen=True)
class Shipment:
    """A pickled ``StagePlan``, which names ops and statistics by module, and the plug-ins that make these modules."""

    origins: tuple[Origin, ...]
    content: bytes


def packed(stage_plan: StagePlan, origins: Sequence[Origin]) -> Shipment:
    """Return the stage plan as something that the scheduler hands on without looking into it."""
    content = io.BytesIO()
    _Pickler(content, origins).dump(stage_plan)
    return Shipment(tuple(origins), content.getvalue())


def unpacked(shipment: Shipment) -> StagePlan:
    """Return the program. Raises ``EngineError`` where a plug-in is not the same here as for the driver."""
    for origin in shipment.origins:
        origin.require()
    opened = _Unpickler(io.BytesIO(shipment.content), shipment.origins).load()
    assert isinstance(opened, StagePlan)
    return opened


class _Pickler(pickle.Pickler):
    """Names classes and functions of modules beside plug-ins by the plug-in: others may have modules of that name."""

    def __init__(self, file: io.BytesIO, origins: Sequence[Origin]) -> None:
        super().__init__(file)
        self._beside = [origin.beside() if isinstance(origin, FileOrigin) else {} for origin in origins]

    def persistent_id(self, obj: Any) -> tuple[int, str, str] | None:
        if isinstance(obj, type | FunctionType):
            for number, modules in enumerate(self._beside):
                if obj.__module__ in modules and _attribute(modules[obj.__module__], obj.__qualname__) is obj:
                    return number, obj.__module__, obj.__qualname__
        return None


def _attribute(module: ModuleType, name: str) -> Any:
    """Return what a module has under a dotted name; None for what was made within a function."""
    try:
        return attrgetter(name)(module)
    except AttributeError:
        return None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, origins: Sequence[Origin]) -> None:
        super().__init__(file)
        self._origins = origins

    def persistent_load(self, pid: Any) -> Any:
        number, module, name = pid
        origin = self._origins[number]
        assert isinstance(origin, FileOrigin)
        return attrgetter(name)(origin.beside()[module])
