"""How a run is carried out: what a recipe says of it, and what the caller asks for in place of that."""

from __future__ import annotations

from dataclasses import replace

from lines_pipeline.core.errors import PlanError
from lines_pipeline.core.sizes import parse_bytes
from lines_pipeline.executor.devices import resolve_device
from lines_pipeline.planner.memory import EngineSettings
from lines_pipeline.recipe.recipe import Recipe


def engine_settings(
    recipe: Recipe,
    scheduler: str | None = None,
    workers: int | None = None,
    memory: str | int | None = None,
    device: str | None = None,
) -> EngineSettings:
    """Return what the recipe says under ``engine``, unless the arguments say else; a cluster finds its devices."""
    engine = recipe.engine
    try:
        budget = parse_bytes(memory) if memory is not None else engine.memory_bytes
    except ValueError as error:
        raise PlanError(f"--memory: {error}") from error
    settings = EngineSettings(
        scheduler=scheduler or engine.scheduler,
        workers=workers or engine.workers or EngineSettings.workers,
        memory=budget,
        device=device or engine.device,
        compile=engine.compile,
    )
    return settings if settings.on_cluster else replace(settings, device=resolve_device(settings.device))
