"""Outputs of the published reference implementations, case by case, through recipes and the public API."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from parity.golden_recipes import run_case, supported

FOLDER = Path(__file__).parent / "golden"
CHECKER = runpy.run_path(str(FOLDER / "check_golden.py"))
CASES = [path for path in sorted(FOLDER.glob("*/case.json")) if supported(json.loads(path.read_text()))]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One tracking store for all cases: making it takes longer than a case."""
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.mark.parametrize("case_path", CASES, ids=lambda path: path.parent.name)
def test_output_and_scalars_agree_with_the_reference(case_path: Path, store: str, tmp_path: Path) -> None:
    case = json.loads(case_path.read_text()) | {"_dir": case_path.parent}
    folder = tmp_path / "found"
    out = folder / "out.safetensors" if "expected" in case else folder
    scalars = run_case(case_path, out, tmp_path / "work", tracking_uri=store)
    assert CHECKER["judge"](case, folder)[0] is None
    assert expected_names(case) <= set(scalars)


def expected_names(case: dict[str, Any]) -> set[str]:
    """Scalars that a run of the case has to report."""
    names = (
        {"alpha", "norm_mtv", "norm_summed_tvs"} if case["params"].get("lines", {}).get("alpha") == "auto" else set()
    )
    if case["method"] in ("fisher", "adamerging_layer", "adamerging_task", "atlas", "atlas_task"):
        names |= set(case["scalars"])
    if case["method"] == "ties":
        names |= {"sign_majority", "zero_sign_entries", "kept_per_expert"}
        names |= {"trim_thresholds", "trim_rank"} if case["params"]["k"] < 100 else set()
    return names


def test_no_case_is_left_out() -> None:
    assert len(CASES) == 175
