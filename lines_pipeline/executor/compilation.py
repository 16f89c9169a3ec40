"""Decides which stages of a run are compiled, and what a run does where a compiler fails."""

from __future__ import annotations

from collections.abc import Iterable

from lines_pipeline.core.errors import EngineError
from lines_pipeline.core.events import Note, Sink
from lines_pipeline.core.types import CompileMode
from lines_pipeline.jit.boundary import CompilerFailure
from lines_pipeline.jit.launch import is_runtime_compiled, load_runtime
from lines_pipeline.planner.memory import EngineSettings

LOADED_BYTES, COMPILED_BYTES = 500_000_000, 2_000_000_000
"""What a stage must read for kernels to pay: loading the runtime takes half a second, compiling it some seconds."""


class Compilation:
    """Holds what a run knows of its compilers."""

    def __init__(self, settings: EngineSettings, emit: Sink) -> None:
        self._settings, self._emit, self._is_told = settings, emit, False

    def mode(self, nbytes: int) -> CompileMode:
        """Decide whether a stage that reads so many bytes is compiled; load the runtime before its sweep, if it is.

        Raises ``EngineError`` where the recipe asks for compiled loops and a compiler fails.
        """
        mode = self._settings.compile
        if mode == "auto" and not compiling_pays(nbytes):
            return "never"
        if mode == "never" or self._settings.on_cluster:
            return mode
        if self._settings.device != "cpu":
            return "never"
        try:
            load_runtime()
        except CompilerFailure as failure:
            if mode == "always":
                raise compile_error(failure) from failure
            self.tell([str(failure)])
            return "never"
        return mode

    def tell(self, failures: Iterable[str]) -> None:
        """Note the first failure of a run; the empty text is none."""
        failure = next(filter(None, failures), "")
        if failure and not self._is_told:
            self._is_told = True
            consequence = "the interpreter does their work, with the same bytes and up to four times the processor time"
            choices = "'engine.compile: never' runs without them, 'always' makes this an error"
            self._emit(Note(f"compiled loops failed ({failure}): {consequence}. {choices}"))


def compiling_pays(nbytes: int) -> bool:
    """Return whether kernels make a stage that reads so many bytes faster: smaller ones never wait for a compiler."""
    return nbytes >= COMPILED_BYTES or (nbytes >= LOADED_BYTES and is_runtime_compiled())


def compile_error(failure: CompilerFailure) -> EngineError:
    """Return the error of a run that asks for compiled loops and cannot have them."""
    return EngineError(
        f"engine.compile: 'always', but compiled loops failed: {failure}. Repair that, or say 'auto' or 'never': the "
        "result has the same bytes"
    )
