"""What a run knows of its inputs' contents: their digests, and which tensors hold NaN or Inf."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lines_pipeline.cache.store import NodeCache
from lines_pipeline.executor.task_results import TaskResult
from lines_pipeline.io.checkpoint import Checkpoint
from lines_pipeline.io.digests import Known, identify


class InputContents:
    """Holds what earlier runs and sweeps have learnt of checkpoints' contents, by step that loads one."""

    def __init__(self, checkpoints: Mapping[str, Checkpoint], cache: NodeCache) -> None:
        self._checkpoints, self._cache = checkpoints, cache
        self.digests: dict[str, str] = {}
        self.nonfinite: dict[str, frozenset[str]] = {}
        """The tensors that hold NaN or Inf."""
        for step, checkpoint in checkpoints.items():
            if remembered := cache.digest(checkpoint):
                self.digests[step], self.nonfinite[step] = remembered.digest, frozenset(remembered.nonfinite)

    def unhashed(self, steps: Iterable[str]) -> frozenset[str]:
        """Return those of ``steps`` that load a checkpoint whose digest is not known yet."""
        return frozenset(step for step in steps if step in self._checkpoints and step not in self.digests)

    def identify(self, step: str) -> str:
        """Return the digest of a step's checkpoint; read all of it where that is not known yet."""
        if step not in self.digests:
            self._keep(step, identify(self._checkpoints[step]))
        return self.digests[step]

    def learn(self, steps: Iterable[str], results: Sequence[TaskResult]) -> None:
        """Put the digests of ``steps`` together from what tasks have hashed."""
        blocks: dict[str, dict[str, list[tuple[int, int]]]] = {step: {} for step in sorted(steps)}
        nonfinite: dict[str, set[str]] = {step: set() for step in blocks}
        for result in results:
            for (step, tensor), digests in result.digests.items():
                blocks[step].setdefault(tensor, []).extend(digests)
            for step, tensor in result.nonfinite:
                nonfinite[step].add(tensor)
        for step, by_tensor in blocks.items():
            ordered = {tensor: [digest for _, digest in sorted(digests)] for tensor, digests in by_tensor.items()}
            self._keep(step, identify(self._checkpoints[step], ordered, nonfinite[step]))

    def _keep(self, step: str, known: Known) -> None:
        self.digests[step], self.nonfinite[step] = known.digest, frozenset(known.nonfinite)
        self._cache.put_digest(self._checkpoints[step], known)
