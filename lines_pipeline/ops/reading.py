"""What reads the files that ports name."""

from __future__ import annotations

from lines_pipeline.ops.drivers import Variant


def reader_of(path: str) -> Variant:
    """Return what gives the tensors of a file: an op with parameters, without inputs."""
    from lines_pipeline.ops.load import Load, LoadParams

    return Variant(Load(), LoadParams(path=path), {})
