"""The command line: what each command prints, as text and as JSON, exit codes, start-up, pipes and Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
import torch
import yaml
from conftest import COMMANDS, TIES_LINES
from mlflow import MlflowClient
from safetensors.torch import load_file, save_file
from toy_suite import above, write_model, write_suite
from typer.testing import CliRunner, Result

import lines_pipeline
from lines_pipeline.cli.app import app
from lines_pipeline.core.errors import LinesError, TrackingError
from lines_pipeline.core.events import Event, RunStarted

Recipe = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("shared_store")

TENSORS = 10
"""Floating-point tensors of the models in ``conftest``; ``position_ids`` comes on top."""


def called(*words: str | Path) -> Result:
    """A command that succeeds, run in this process."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, (result.exception, result.stderr)
    return result


def parsed(*words: str | Path) -> Any:
    """What a command prints with ``--json``: one document on stdout."""
    return json.loads(called(*words, "--json").stdout)


def process(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """A command as a user runs it, with its output in pipes."""
    line = [sys.executable, "-m", "lines_pipeline", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def judged(toy: Path) -> Path:
    """A recipe that evaluates a toy model: half of the images are right."""
    write_model(toy / "a.safetensors", 0.5)
    write_suite(toy, {"rise": {"val": above(0.25, 0.75)}})
    nodes = {
        "model": {"op": "load", "path": "a.safetensors"},
        "val": {"op": "evaluate", "model": "model", "suite": "suite.yaml", "split": "val"},
    }
    path = toy / "judged.yaml"
    path.write_text(yaml.safe_dump({"name": "judged", "nodes": nodes}))
    return path


def test_run_as_json(write_recipe: Recipe) -> None:
    printed = parsed("run", write_recipe(TIES_LINES), "--out", "out")
    assert set(printed) == {
        "name", "run_id", "tracking_uri", "metrics", "files", "facts", "chosen", "cached", "seconds", "notes",
        "units",
    }  # fmt: skip
    assert (
        printed["name"] == "tested" and printed["metrics"] == {} and printed["chosen"] == {} and printed["cached"] == []
    )
    assert printed["files"] == [str(Path("out/model.safetensors").resolve())] and Path(printed["files"][0]).is_file()
    assert printed["facts"]["scaled"]["alpha"] > 0 and printed["facts"]["scaled"]["num_experts"] == 3
    assert len(printed["run_id"]) == 32 and printed["seconds"] > 0


def test_events_go_to_a_file_and_quiet_runs_say_nothing_else(
    write_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED", "s3cr3t-value")
    recipe = write_recipe(TIES_LINES, description="for ${env:PLANTED}")
    completed = called("run", recipe, "--out", "out-s3cr3t-value", "--no-tracking", "--events", "events.jsonl", "-q")
    assert completed.stderr == "" and "written" in completed.stdout
    text = Path("events.jsonl").read_text()
    texts = [json.loads(line)["event"] for line in text.splitlines()]
    assert {"StageStarted", "StageFinished", "FileWritten"} <= set(texts) and texts[-1] == "RunFinished"
    assert "s3cr3t" not in text
    refused = CliRunner().invoke(app, ["run", str(recipe), "--no-tracking", "--events", "nowhere/events.jsonl"])
    assert isinstance(refused.exception, TrackingError) and "nowhere/events.jsonl" in str(refused.exception)


def test_verbose_runs_say_what_they_open_decide_and_find_in_the_cache(
    write_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED", "s3cr3t-value")
    (write_recipe(TIES_LINES).parent / "base.safetensors").rename(Path("models/s3cr3t-value.safetensors"))
    base = {"op": "load", "path": "${env:PLANTED}.safetensors"}
    recipe = write_recipe({**TIES_LINES, "base": base})
    words = ("run", recipe, "--out", "out", "--no-tracking")
    first = called(*words, "-v").stderr
    assert "info: 'base': opened '${env:PLANTED}.safetensors', 11 tensors, content not known yet\n" in first
    assert re.search(r"info: 'model': to be made, at '.*model\.safetensors'\n", first)
    assert re.search(r"info: pass 1/\d begins: \d+ tasks?, 0\.\d MB\n", first)
    again = called(*words, "--verbose").stderr
    assert re.search(r"info: 'model': there already: '.*model\.safetensors'\n", again)
    assert "11 tensors, content known\n" in again and " begins: " not in again
    assert re.search(r"debug: cache: files of \w+: found\n", again)
    other = called(*words, "-v", "--set", "nodes.merged.density=0.3").stderr
    assert re.search(r"debug: cache: files of \w+: not there\n", other) and " begins: " in other
    for text in (again, other):
        looked_up = [line for line in text.splitlines() if line.startswith("debug: cache: ")]
        assert len(looked_up) == len(set(looked_up)) > 0
    assert "s3cr3t" not in first + again + other
    assert not [line for line in called(*words).stderr.splitlines() if line.startswith(("info:", "debug:"))]
    refused = CliRunner().invoke(app, ["run", str(recipe), "-q", "-v"])
    assert refused.exit_code == 2 and "--quiet and --verbose exclude each other" in refused.output


def test_plans_and_validations_say_more_or_less(write_recipe: Recipe, judged: Path) -> None:
    opened = re.compile(r"info: 'base': opened 'base\.safetensors', 11 tensors, content not known yet\n")
    recipe = write_recipe(TIES_LINES)
    for command in ("plan", "validate"):
        silent, completed = called(command, recipe), called(command, recipe, "-v")
        assert silent.stderr == "" and opened.search(completed.stderr) and completed.stdout == silent.stdout
    assert json.loads(called("plan", recipe, "-v", "--json").stdout)["name"] == "tested"
    assert called("validate", judged).stdout.startswith("note: ")
    assert called("validate", judged, "-q").stdout == "judged: valid, 2 steps\n"
    refused = CliRunner().invoke(app, ["validate", str(recipe), "-q", "-v"])
    assert refused.exit_code == 2 and "--quiet and --verbose exclude each other" in refused.output


def test_metrics_as_json_and_as_a_table(judged: Path) -> None:
    printed = parsed("run", judged)
    assert printed["metrics"]["val"]["accuracy/rise"] == printed["metrics"]["val"]["mean_accuracy"] == 0.5
    assert printed["units"]["val"]["accuracy/rise"] == "share" and printed["units"]["val"]["mean_loss"] == "nats"
    cells = [[cell.strip() for cell in line.split("│")[1:3]] for line in called("run", judged).stdout.splitlines()]
    assert ["accuracy/rise", "50.0 % (0.0 to 100.0)"] in cells and ["mean_accuracy", "50.0 %"] in cells
    assert ["mean_loss", f"{printed['metrics']['val']['mean_loss']:.4g} nats"] in cells
    assert not [cell for cell in cells if "loss/rise" in cell]


def test_run_ends_with_files_the_run_and_how_to_look_at_it(shared_store: str, write_recipe: Recipe) -> None:
    first = called("run", write_recipe(TIES_LINES), "--out", "out").stdout
    assert f"written  {Path('out/model.safetensors').resolve()}\n" in first
    assert "run      tested " in first
    assert f"compare  mlflow ui --backend-store-uri {shared_store}\n" in first
    assert "cached   saved\n" in called("run", write_recipe(TIES_LINES), "--out", "out").stdout


def test_values_are_set_on_the_command_line(write_recipe: Recipe) -> None:
    recipe = write_recipe(TIES_LINES)
    called("run", recipe, "--out", "plain", "--set", "nodes.scaled.beta=0.0", "--set", "nodes.scaled.alpha=0.0")
    base = load_file(recipe.parent / "base.safetensors")
    assert all(torch.equal(base[name], value) for name, value in load_file("plain/model.safetensors").items())


def test_plan_as_json_and_what_is_cached_after_a_run(write_recipe: Recipe) -> None:
    recipe = write_recipe(TIES_LINES)
    before = parsed("plan", recipe)
    assert set(before) == {
        "name", "passes", "bytes_read", "bytes_written", "peak_bytes", "compute_dtypes", "stored_dtypes", "cached",
        "measured", "drivers", "trials", "settings", "lines", "notes", "warnings", "shortages",
    }  # fmt: skip
    size = sum(value.nbytes for value in load_file(recipe.parent / "base.safetensors").values())
    assert before["cached"] == before["measured"] == [] and len(before["passes"]) > 0
    assert before["bytes_written"] == size
    assert before["compute_dtypes"] == ["float32"] and before["stored_dtypes"] == ["float32", "int64"]
    (lines,) = before["lines"]
    assert lines["depths"] == {"visual": 4} and lines["outside"] == "auto"
    assert lines["scales"]["visual"] == [f"auto + 0.5 * {block}/3" for block in range(4)]
    called("run", recipe)
    after = parsed("plan", recipe)
    assert after["cached"] == ["model"] and after["passes"] == [] and after["bytes_read"] == 0
    assert len(parsed("plan", recipe, "--no-cache")["passes"]) == len(before["passes"])
    text = called("plan", recipe).stdout
    assert "everything is in the cache" in text and "in the cache: model, statistics of merged" in text
    other = parsed("plan", recipe, "--set", "nodes.scaled.beta=0.25")
    assert other["cached"] == [] and other["measured"] == ["merged", "scaled"]


def test_the_plan_tells_the_scales_once_alpha_is_known(write_recipe: Recipe) -> None:
    recipe, other = write_recipe(TIES_LINES), ["--set", "nodes.scaled.beta=0.25"]
    alpha = parsed("run", recipe)["facts"]["scaled"]["alpha"]
    (lines,) = parsed("plan", recipe, *other)["lines"]
    assert lines["outside"] == f"{alpha:.6g}"
    assert lines["scales"]["visual"] == [f"{alpha + 0.25 * block / 3:.6g}" for block in range(4)]
    assert f"visual block 3: {alpha + 0.25:.6g}\n" in called("plan", recipe, *other).stdout
    (unread,) = parsed("plan", recipe, "--no-cache")["lines"]
    assert unread["outside"] == "auto" and unread["scales"]["visual"][3] == "auto + 0.5 * 3/3"


def test_a_run_records_the_scales_that_were_known_before_it(write_recipe: Recipe) -> None:
    recorded: list[dict[str, Any]] = []

    def keep(event: Event) -> None:
        if isinstance(event, RunStarted):
            recorded.append(json.loads(event.texts["layers.json"])["scaled"])

    for _ in range(2):
        alpha = lines_pipeline.run(write_recipe(TIES_LINES), out="out", sinks=[keep]).facts["scaled"]["alpha"]
    assert [layers["outside"] for layers in recorded] == ["auto", f"{alpha:.6g}"]
    assert recorded[1]["scales"]["visual"][0] == f"{alpha:.6g}" and recorded[1]["depths"] == {"visual": 4}


@pytest.mark.parametrize(
    ("own", "outside"), [({}, "0.333333"), ({"weights": 0.9}, "auto"), ({"reduce": "mean"}, "auto")]
)
def test_alpha_of_a_plain_sum_is_known_to_the_plan(own: dict[str, Any], outside: str, write_recipe: Recipe) -> None:
    summed = {"op": "task-arithmetic", "deltas": "updates", **own}
    (lines,) = parsed("plan", write_recipe({**TIES_LINES, "merged": summed}))["lines"]
    assert lines["outside"] == lines["scales"]["visual"][0].partition(" ")[0] == outside
    assert lines["scales"]["visual"][3] == ("0.833333" if own == {} else "auto + 0.5 * 3/3")


def test_plan_and_validate_make_nothing(tmp_path: Path, write_recipe: Recipe) -> None:
    recipe = write_recipe(TIES_LINES)
    before = sorted(tmp_path.rglob("*"))
    called("plan", recipe)
    assert called("validate", recipe).stdout == "tested: valid, 11 steps\n"
    assert sorted(tmp_path.rglob("*")) == before


def test_validate_notes_what_is_missing(judged: Path) -> None:
    (judged.parent / "rise_val.safetensors").unlink()
    lines = called("validate", judged).stdout.splitlines()
    assert lines[0].startswith("note: ") and "rise_val.safetensors: no such file" in lines[0]
    assert lines[1].startswith("note: the suite suite.yaml runs Python: toy_encoder:build (")
    assert lines[2:] == ["judged: valid, 2 steps"]


def test_two_runs_side_by_side(write_recipe: Recipe) -> None:
    recipe = write_recipe(TIES_LINES)
    printed = parsed("run", recipe, "--out", "one")["run_id"]
    two = parsed("run", recipe, "--out", "two", "--set", "nodes.scaled.beta=0.25")["run_id"]
    content = parsed("compare", printed, two[:12])
    assert set(content) == {"runs", "names", "rows"}
    assert content["runs"] == [printed, two] and content["names"] == ["tested", "tested scaled.beta=0.25"]
    rows = {row["name"]: row for row in content["rows"]}
    assert rows["scaled.beta"] == {"kind": "params", "name": "scaled.beta", "values": ["0.5", "0.25"]}
    assert rows["merged.op"]["values"] == ["ties", "ties"]
    text = called("compare", printed, two).stdout
    assert printed[:8] in text and two[:8] in text
    (line,) = [line for line in text.splitlines() if line.startswith("│ scaled.beta ")]
    assert [cell.strip() for cell in line.split("│")[1:4]] == ["scaled.beta", "0.5", "0.25"]


def test_the_zoo_as_json_and_as_text() -> None:
    printed = parsed("zoo")
    assert len(printed) == 21 and all(set(entry) == {"uri", "built", "path"} for entry in printed)
    built = {entry["uri"]: entry["built"] for entry in printed}
    assert built.pop("zoo://glyphs/pretrained") and not any(built.values())
    text = called("zoo", "list").stdout.splitlines()
    assert len(text) == 21 and text[0].split(maxsplit=1) == ["zoo://glyphs/pretrained", "built"]
    assert called("zoo", "list", "glyphs@base1-seed2").stdout.split()[:2] == [
        "zoo://glyphs@base1-seed2/pretrained",
        "built",
    ]
    assert text[1].endswith("not built yet")


def test_a_checkpoint_as_json_and_as_text(models: Path) -> None:
    state = load_file(models / "base.safetensors")
    printed = parsed("inspect", models / "base.safetensors")
    assert set(printed) == {
        "uri", "parameters", "bytes", "dtypes", "family", "depths", "paths", "shares", "in_no_tower", "aliases",
        "metadata", "tensors", "digest", "unreadable", "notes",
    }  # fmt: skip
    assert printed["parameters"] == sum(value.numel() for value in state.values())
    assert printed["bytes"] == sum(value.nbytes for value in state.values())
    assert printed["dtypes"] == ["float32", "int64"] and printed["depths"] == {"visual": 4}
    rows = {row["name"]: row for row in printed["tensors"]}
    assert len(rows) == TENSORS + 1
    weight = rows["visual.transformer.resblocks.2.mlp.c_fc.weight"]
    assert weight["shape"] == [32, 8] and weight["block"] == "visual 2"
    assert weight["norm"] == pytest.approx(state[weight["name"]].double().norm().item())
    assert rows["position_ids"]["norm"] == pytest.approx((0 + 1 + 4 + 9 + 16) ** 0.5)
    text = called("inspect", models / "base.safetensors").stdout
    assert "family     open_clip\n" in text and "visual.proj" in text
    assert parsed("inspect", "zoo://glyphs/pretrained")["depths"]


LONG = "vision_model.encoder.layers.0.[attention].self_attention.in_proj_weight.lora_magnitude_vector.default.:ok:"
"""A name with all that a table could take away: it is longer than 80 columns, and has what looks like markup."""


def test_long_names_are_whole_in_a_pipe() -> None:
    save_file({LONG: torch.ones(2)}, "long.safetensors")
    assert f"│ {LONG} │" in called("inspect", "long.safetensors").stdout


def test_long_names_are_folded_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TTY_COMPATIBLE", "1"), ("COLUMNS", "70"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    save_file({LONG: torch.ones(2)}, "long.safetensors")
    rows = [line.split("│") for line in called("inspect", "long.safetensors").stdout.splitlines() if "│" in line]
    assert len(rows) > 1 and "".join(row[1].strip() for row in rows) == LONG


def test_long_names_of_runs_and_parameters_are_whole_in_a_pipe(write_recipe: Recipe) -> None:
    node = "scaled-by-a-name-that-goes-on-and-on-until-no-table-of-80-columns-could-hold-it-next-to-its-values"
    nodes = {**TIES_LINES, node: TIES_LINES["scaled"], "model": {**TIES_LINES["model"], "delta": node}}
    recipe = write_recipe(nodes)
    runs = [parsed("run", recipe, "--set", f"nodes.{node}.beta={beta}")["run_id"] for beta in (0.25, 0.5)]
    (line,) = [line for line in called("compare", *runs).stdout.splitlines() if line.startswith(f"│ {node}.beta ")]
    assert [cell.strip() for cell in line.split("│")[1:4]] == [f"{node}.beta", "0.25", "0.5"]


def test_the_catalogue_as_json_and_as_text() -> None:
    printed = parsed("ops")
    assert {"load", "ties", "lines-scale", "evaluate", "save"} <= {op["name"] for op in printed}
    ties = parsed("ops", "TIES")
    assert ties == next(op for op in printed if op["name"] == "ties")
    assert {"name", "summary", "formula", "source", "inputs", "params", "gives"} <= set(ties)
    assert {param["name"]: param["default"] for param in ties["params"]}["density"] == 0.2
    text = called("ops", "ties").stdout
    assert "param    density (default 0.2)" in text and "arXiv 2306.01708" in text
    assert "lines-scale" in called("ops").stdout


def test_graphs_as_files_and_on_stdout(write_recipe: Recipe) -> None:
    recipe = write_recipe(TIES_LINES)
    called("graph", recipe, "-o", "graph.svg")
    assert ElementTree.parse("graph.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"
    called("graph", recipe, "--out", "graph.mmd")
    text = Path("graph.mmd").read_text()
    assert text.startswith(("flowchart", "graph")) and "lines-scale" in text
    assert called("graph", recipe).stdout.strip() == text.strip()
    refused = CliRunner().invoke(app, ["graph", str(recipe), "-o", "graph.png"])
    assert refused.exit_code == 2 and "expected a file ending in .svg or .mmd" in refused.stderr
    assert not Path("graph.png").exists()


def test_the_schema_is_json_schema_and_takes_the_recipe(write_recipe: Recipe) -> None:
    schema = json.loads(called("schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    recipe = yaml.safe_load(write_recipe(TIES_LINES).read_text())
    jsonschema.validate(recipe, schema)
    recipe["nodes"]["merged"]["densty"] = 0.2
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(recipe, schema)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ops", "tise"], "no op 'tise' (did you mean 'ties'?)"),
        (["compare", "one"], "name at least two runs"),
        (["zoo", "burn"], "'burn'"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_mistakes_on_the_command_line(words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2 and result.stdout == ""
    assert message in " ".join(result.stderr.replace("│", "").split())


@pytest.mark.parametrize("store", [[], ["--tracking-uri", "sqlite:///nowhere.db"]], ids=["no run", "no store"])
def test_runs_that_are_not_there_cannot_be_compared(store: list[str]) -> None:
    result = CliRunner().invoke(app, ["compare", "no-such-run", "nor-this", *store])
    assert isinstance(result.exception, LinesError) and result.exception.exit_code == 2


@pytest.mark.slow
def test_exit_codes(write_recipe: Recipe) -> None:
    recipe = write_recipe(TIES_LINES)
    completed = process("run", recipe, "--out", "out", "--json")
    assert completed.returncode == 0 and set(json.loads(completed.stdout)["facts"]) >= {"merged", "scaled"}
    failed = process("run", recipe, "--json", "--tracking-uri", "http://127.0.0.1:9")
    assert failed.returncode == 1 and failed.stdout == ""
    assert failed.stderr.startswith("error: tracking store http://127.0.0.1:9: no server answers there")
    wrong = process("run", recipe, "--json", "--set", "nodes.merged.density=20")
    assert wrong.returncode == 2 and wrong.stdout == ""
    assert wrong.stderr.startswith("error: ") and "Traceback" not in wrong.stderr
    unknown = process("compare", "no-such-run", "nor-this")
    assert unknown.returncode == 2 and "no run is named, or begins, with 'no-such-run'" in unknown.stderr


@pytest.mark.slow
def test_a_pipe_gets_neither_bars_nor_colours(
    judged: Path, write_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(judged.parent / "python"), prepend=os.pathsep)
    for recipe in (write_recipe(TIES_LINES), judged):
        completed = process("run", recipe)
        assert completed.returncode == 0
        assert all(line.isprintable() for line in (completed.stdout + completed.stderr).split("\n"))


@pytest.mark.slow
def test_a_reader_that_leaves_early_is_told_nothing() -> None:
    line = [sys.executable, "-m", "lines_pipeline", "schema"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as left:
        assert left.stdout is not None and left.stderr is not None
        left.stdout.close()
        assert left.stderr.read() == ""
    assert left.returncode in (0, 1)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A recipe whose merge takes long enough to be interrupted."""
    generator = torch.Generator().manual_seed(0)
    folder = tmp_path / "large"
    folder.mkdir()
    for name in ("base", "a", "b", "c"):
        tensors = {f"layers.{block}.weight": torch.randn(1_000_000, generator=generator) for block in range(6)}
        save_file(tensors, folder / f"{name}.safetensors")
    nodes = {
        "base": {"op": "load", "path": "base.safetensors"},
        "experts": {"op": "load", "path": "{e}.safetensors", "for_each": {"e": ["a", "b", "c"]}},
        "updates": {"op": "task-vector", "model": "experts", "base": "base"},
        **TIES_LINES,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "large", "nodes": nodes}))
    return path


def wait_for_temporary(folder: Path, running: subprocess.Popen[str]) -> None:
    """Return once a run writes its output under a temporary name."""
    deadline = time.monotonic() + 60
    while not list(folder.glob(".*.tmp")):
        assert running.poll() is None and time.monotonic() < deadline, running.returncode
        time.sleep(0.001)


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["serial", "threads"])
def test_ctrl_c_ends_a_run_in_one_line_and_leaves_no_file(scheduler: str, shared_store: str, large: Path) -> None:
    line = [sys.executable, "-m", "lines_pipeline", "run", str(large), "--out", "out", "--scheduler", scheduler]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            wait_for_temporary(Path("out"), running)
            running.send_signal(signal.SIGINT)
            out, err = running.communicate(timeout=60)
        finally:
            running.kill()
    assert running.returncode == 130, err
    assert out == "" and err.splitlines()[-1] == "interrupted"
    assert not Path("out").exists()
    client = MlflowClient(tracking_uri=shared_store)
    experiment = client.get_experiment_by_name("lines-pipeline")
    assert experiment is not None
    (run, *_) = client.search_runs(
        [experiment.experiment_id], "attributes.run_name = 'large'", order_by=["start_time DESC"]
    )
    assert run.info.status == "KILLED"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_instant_and_loads_nothing_large(command: str) -> None:
    line = [sys.executable, "-X", "importtime", "-m", "lines_pipeline", *filter(None, [command]), "--help"]
    seconds: list[float] = []
    while not seconds or (min(seconds) >= 0.5 and len(seconds) < 8):
        before = time.perf_counter()
        completed = subprocess.run(line, capture_output=True, text=True, check=True, timeout=60)
        seconds.append(time.perf_counter() - before)
    loaded = {row.rpartition("|")[2].strip() for row in completed.stderr.splitlines()}
    assert "typer" in loaded and not loaded & {"torch", "mlflow", "numpy", "dask", "rich.console"}
    assert min(seconds) < 0.5


@pytest.mark.parametrize("closed", [("stdout",), ("stderr",), ("stdout", "stderr")], ids=" and ".join)
@pytest.mark.parametrize(("dtype", "code"), [("keep", 0), ("float8", 2)])
def test_a_run_does_not_end_because_nobody_listens(
    closed: tuple[str, ...], dtype: str, code: int, write_recipe: Recipe
) -> None:
    """As in ``run ... | true``: the reader is gone before anything is said."""
    recipe = write_recipe({**TIES_LINES, "saved": {**TIES_LINES["saved"], "dtype": dtype}})
    reading, writing = os.pipe()
    os.close(reading)
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | dict.fromkeys(closed, writing)
    completed = subprocess.run(
        [sys.executable, "-m", "lines_pipeline", "run", recipe, "--out", "out"], **streams, text=True
    )
    os.close(writing)
    assert completed.returncode == code
    assert Path("out/model.safetensors").exists() == (code == 0)
    assert (
        "Traceback" not in f"{completed.stdout}{completed.stderr}"
        and "internal" not in f"{completed.stdout}{completed.stderr}"
    )


def test_a_standard_output_that_cannot_be_written(write_recipe: Recipe) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "w") as full:
        line = [sys.executable, "-m", "lines_pipeline", "run", str(write_recipe(TIES_LINES)), "--out", "out"]
        completed = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True)
    assert completed.returncode == 1
    assert completed.stderr.endswith("error: standard output cannot be written (No space left on device)\n")
    assert Path("out/model.safetensors").exists()
