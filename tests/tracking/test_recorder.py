"""The process that records."""

from __future__ import annotations

import gc
from multiprocessing import Pipe

from lines_pipeline.tracking.recorder import _Open, _Records


def test_objects_that_runs_of_one_process_make_can_be_collected() -> None:
    ours, theirs = Pipe()
    frozen = gc.get_freeze_count()
    with ours, theirs:
        _Records(theirs)._do(_Open(0, "http://127.0.0.1:9", {}))
    assert gc.get_freeze_count() == frozen
