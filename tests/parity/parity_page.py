"""The tables of ``docs/parity.md``, from the golden cases.

``PYTHONPATH=tests python tests/parity/parity_page.py`` runs every case, and writes the tables with what it finds.
"""

from __future__ import annotations

import json
import os
import runpy
import string
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.golden_recipes import nodes_of, run_case, supported

FOLDER = Path(__file__).parent / "golden"
PAGE = Path(__file__).parents[2] / "docs" / "parity.md"
MARK = "## The cases\n"
"""What comes after this line is written by this script."""

PAPERS: Mapping[str, str] = {
    "wang-kee/LiNeS": "LiNeS, [2410.17146](https://arxiv.org/abs/2410.17146); TIES, TALL masks and Consensus too",
    "prateeky2806/ties-merging": "TIES, [2306.01708](https://arxiv.org/abs/2306.01708)",
    "mlfoundations/task_vectors": "task arithmetic, [2212.04089](https://arxiv.org/abs/2212.04089)",
    "mlfoundations/model-soups": "model soups, [2203.05482](https://arxiv.org/abs/2203.05482)",
    "arcee-ai/mergekit": "mergekit, [2403.13257](https://arxiv.org/abs/2403.13257); see [Methods](methods.md)",
    "AntoAndGar/task_singular_vectors": "TSV, [2412.00081](https://arxiv.org/abs/2412.00081)",
    "danielm1405/iso-merging": "Iso-C and Iso-CTS, [2502.04959](https://arxiv.org/abs/2502.04959)",
    "danielm1405/magmax": "MagMax, [2407.06322](https://arxiv.org/abs/2407.06322)",
    "duguodong7/pcb-merging": "PCB, [2410.02396](https://arxiv.org/abs/2410.02396)",
    "harveyhuang18/EMR_Merging": "EMR, [2405.17461](https://arxiv.org/abs/2405.17461), "
    "and the function of DARE's authors, [2311.03099](https://arxiv.org/abs/2311.03099)",
    "JH-GEECS/CART": "CART, [2412.12153](https://arxiv.org/abs/2412.12153)",
    "unravel-xu/ACE-Merging": "ACE, [2603.02945](https://arxiv.org/abs/2603.02945)",
    "nathanielyvo/WUDI-Merging": "WUDI, [2503.08099](https://arxiv.org/abs/2503.08099)",
    "tanganke/fusion_bench": "FusionBench, [2406.03280](https://arxiv.org/abs/2406.03280): WUDI on all matrices, "
    "SVC ([2602.05536](https://arxiv.org/abs/2602.05536)), and the Fisher merge of MergeLM",
    "mmatena/model_merging": "Fisher merging, [2111.09832](https://arxiv.org/abs/2111.09832)",
    "bloomberg/dataless-model-merging": "RegMean, [2212.09849](https://arxiv.org/abs/2212.09849)",
    "EnnengYang/AdaMerging": "AdaMerging, [2310.02575](https://arxiv.org/abs/2310.02575)",
    "fredzzhang/atlas": "aTLAS, [2407.02880](https://arxiv.org/abs/2407.02880)",
    "kiddo127/ESM": "ESM, [2602.20208](https://arxiv.org/abs/2602.20208)",
    "definition": "no code is published: the definition, computed in float64",
}
"""What each project is the code of."""

PLUMBING = {"load", "save", "task-vector", "apply"}
"""Ops that nearly every case needs."""


@dataclass(frozen=True)
class Case:
    """A golden case, as far as the page tells of it."""

    id: str
    project: str
    version: str
    function: str
    ops: tuple[str, ...]
    tolerance: str


def cases() -> list[Case]:
    """All cases in ``golden``, by project and function."""
    values = []
    for path in sorted(FOLDER.glob("*/case.json")):
        case = json.loads(path.read_text())
        source = case["source"]
        version = str(source["commit_or_version"])
        ops = nodes_of(case, path.parent) if supported(case) else {}
        named = dict.fromkeys(node["op"] for node in ops.values())
        values.append(
            Case(
                case["id"],
                source["project"],
                version[:7] if len(version) == 40 else version,
                source["function"].replace("`", ""),
                tuple(name for name in named if name not in PLUMBING) or tuple(named),
                _tolerance(case),
            )
        )
    return sorted(values, key=lambda case: (list(PAPERS).index(case.project), case.version, case.function, case.id))


def _tolerance(case: Mapping[str, Any]) -> str:
    """The largest difference that a case allows."""
    given = case["tolerance"]
    if "expected_masks" in case:
        return "equal"
    message = f"{given['atol']:.0e} + {given['rtol']:.0e} · \\|x\\|"
    return f"{message}, {given['max_unequal_fraction']:.0%} unequal" if "max_unequal_fraction" in given else message


def tables(differences: Mapping[str, str]) -> str:
    """The tables of all cases; ``differences`` are the largest ones found, by case."""
    return "".join(_tables(cases(), differences))


def _tables(shown: list[Case], differences: Mapping[str, str]) -> Iterator[str]:
    for project in PAPERS:
        own = [case for case in shown if case.project == project]
        for version in dict.fromkeys(case.version for case in own):
            yield _table(project, version, [case for case in own if case.version == version], differences)


def _table(project: str, version: str, own: list[Case], differences: Mapping[str, str]) -> str:
    functions = list(dict.fromkeys(case.function for case in own))
    letters = dict(zip(functions, string.ascii_lowercase, strict=False))
    title = "No reference" if project == "definition" else f"{project}, {version}"
    lines = [f"\n### {title}\n", f"{PAPERS[project][0].upper()}{PAPERS[project][1:]}.\n"]
    lines += [f"- {letters[function]}: `{function}`" for function in functions]
    lines += ["\n| case | by | ops | allowed | found |", "|---|---|---|---|---|"]
    for case in own:
        ops = ", ".join(f"`{op}`" for op in case.ops) or "awaits its op"
        cells = (f"`{case.id}`", letters[case.function], ops, case.tolerance, differences.get(case.id, ""))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def differences_of(text: str) -> dict[str, str]:
    """The differences that a page has, by case."""
    rows = [line.strip("| \n").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {cells[0].strip("`"): cells[-1] for cells in rows if len(cells) == 5}


def measured(names: Iterable[str]) -> dict[str, str]:
    """Run cases; return the largest difference of each from what is expected. Exits where one is not allowed."""
    checker = runpy.run_path(str(FOLDER / "check_golden.py"))
    by_name = {}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = str(Path(scratch) / "cache")
        for name in names:
            path, folder = FOLDER / name / "case.json", Path(scratch) / name
            case = json.loads(path.read_text()) | {"_dir": path.parent}
            out = folder / "out.safetensors" if "expected" in case else folder
            run_case(path, out, folder / "work", tracking=False)
            problem, worst, *_ = checker["judge"](case, folder)
            if problem:
                sys.exit(f"{name}: {problem}")
            by_name[name] = f"{worst:.0e}" if worst else "0"
            print(name, by_name[name], flush=True)
    return by_name


if __name__ == "__main__":
    told, _, _ = PAGE.read_text().partition(MARK)
    PAGE.write_text(told + MARK + tables(measured(case.id for case in cases() if case.ops)))
