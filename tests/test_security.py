"""What a stranger's recipe can and cannot do: a test for each line of ``docs/security.md``."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from toy_suite import above, write_model, write_suite
from typer.testing import CliRunner

import lines_pipeline
from lines_pipeline.cli.app import app
from lines_pipeline.core.errors import EvalError, LinesError, RecipeError, TrackingError
from lines_pipeline.core.trust import TrustError, store_path, trust, trusted_folders
from lines_pipeline.tracking.records import Head, Keeper

pytestmark = pytest.mark.usefixtures("shared_store")

Check = Callable[..., object]
CHECKS: list[Check] = [lines_pipeline.validate, lines_pipeline.plan]
ALL: list[Check] = [*CHECKS, lines_pipeline.run]

ENCODER = """\
from pathlib import Path
Path({ran!r}).write_text("ran")
import torch
class Threshold(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(1, 1, bias=False)])
    def forward(self, images):
        image = images.flatten(1)
        return torch.cat([image, self.blocks[0].weight.expand_as(image)], dim=1)
"""


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """A folder that nobody trusts, with a recipe whose suite names Python beside it."""
    folder = tmp_path / "stranger"
    folder.mkdir()
    (folder / "encoder.py").write_text(ENCODER.format(ran=str(tmp_path / "ran")))
    write_model(folder / "a.safetensors", 0.5)
    write_suite(folder, {"rise": {"val": above(0.25, 0.75)}})
    names(folder, "encoder:Threshold")
    write(folder, {"val": {"op": "evaluate", "model": "model", "suite": "suite.yaml", "split": "val"}})
    return folder


def names(folder: Path, factory: str, **arguments: Any) -> None:
    """Let the suite name another factory."""
    content = yaml.safe_load((folder / "suite.yaml").read_text())
    content["model"] = {"factory": factory, "arguments": arguments}
    (folder / "suite.yaml").write_text(yaml.safe_dump(content))


def write(folder: Path, nodes: dict[str, Any], **top: Any) -> Path:
    """``recipe.yaml`` with a model and the given nodes."""
    path = folder / "recipe.yaml"
    shared = {"model": {"op": "load", "path": "a.safetensors"}}
    path.write_text(yaml.safe_dump({"name": "stranger", "nodes": {**shared, **nodes}, **top}))
    return path


SAVED = {"saved": {"op": "save", "model": "model", "path": "out.safetensors"}}


@pytest.mark.parametrize(
    "factory",
    ["encoder:Threshold", "encoder.py:Threshold", "os:system", "subprocess:run", "builtins:exec", "torch:load"],
)
def test_python_that_a_suite_names_runs_in_trusted_folders_only(factory: str, stranger: Path, tmp_path: Path) -> None:
    names(stranger, factory)
    with pytest.raises(EvalError, match=r"is not a trusted folder; give --trust, or .*lines-pipeline trust"):
        lines_pipeline.run(stranger / "recipe.yaml", out="out")
    assert not (tmp_path / "ran").exists() and not Path("out").exists()


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("trusted", [False, True])
def test_checks_list_the_python_and_import_none(check: Check, trusted: bool, stranger: Path, tmp_path: Path) -> None:
    (note,) = check(stranger / "recipe.yaml", trust=trusted).notes  # type: ignore[attr-defined]
    assert note.startswith(f"the suite suite.yaml runs Python: encoder:Threshold ({stranger / 'encoder.py'})")
    assert ("not a trusted folder; give --trust" in note) is not trusted
    assert not (tmp_path / "ran").exists() and "encoder" not in sys.modules


@pytest.mark.parametrize("use", ALL)
def test_plug_ins_run_in_trusted_folders_only(use: Check, stranger: Path, tmp_path: Path) -> None:
    (stranger / "methods.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    recipe = write(stranger, {"merged": {"op": "mine", "delta": "model"}, **SAVED}, plugins=["methods.py"])
    with pytest.raises(RecipeError, match=r"unknown op 'mine'.* plug-ins.* is not a trusted folder; give --trust, or"):
        use(recipe)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(RecipeError, match="unknown op 'mine'; expected one of"):
        use(recipe, trust=True)
    assert (tmp_path / "ran").exists()


def test_the_flag_and_the_list_let_it_run(stranger: Path) -> None:
    recipe = stranger / "recipe.yaml"
    metrics = lines_pipeline.run(recipe, trust=True).metrics["val"]
    assert metrics["accuracy/rise"] == metrics["mean_accuracy"] == 0.5
    trust(stranger.parent)
    assert lines_pipeline.run(recipe).metrics["val"]["mean_accuracy"] == 0.5


def test_a_link_into_a_trusted_folder_is_not_trusted(stranger: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    trust(mine)
    (mine / "suite.yaml").symlink_to(stranger / "suite.yaml")
    write_model(mine / "a.safetensors", 0.5)
    for name in ("encoder.py", "head.safetensors", "rise_val.safetensors"):
        (mine / name).symlink_to(stranger / name)
    recipe = write(mine, {"val": {"op": "evaluate", "model": "model", "suite": "suite.yaml", "split": "val"}})
    with pytest.raises(EvalError, match=f"'{stranger}' is not a trusted folder"):
        lines_pipeline.run(recipe)


def test_a_folder_once_trusted_that_became_a_link_is_not_trusted(stranger: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    trust(mine)
    mine.rmdir()
    mine.symlink_to(stranger)
    with pytest.raises(EvalError, match="is not a trusted folder"):
        lines_pipeline.run(mine / "recipe.yaml")


@pytest.mark.parametrize("check", ALL)
@pytest.mark.parametrize(
    ("top", "message"),
    [
        ({"engine": {"scheduler": "tcp://10.0.0.1:8786"}}, "sets the address of a scheduler"),
        ({"tracking": {"uri": "https://example.org"}}, "sets a tracking URI"),
        ({"tracking": {"uri": "sqlite:////tmp/x.db"}}, "sets a tracking URI"),
        ({"vars": {"v": "tcp://10.0.0.1:8786"}, "engine": {"scheduler": "${v}"}}, "sets the address of a scheduler"),
    ],
)
def test_other_machines_are_named_by_trusted_recipes_only(
    check: Check, top: dict[str, Any], message: str, stranger: Path
) -> None:
    recipe = write(stranger, SAVED, **top)
    with pytest.raises(RecipeError, match=f"{message}, but .* is not a trusted folder; give --trust"):
        check(recipe)


URLS = [
    ({"x": {"op": "load", "path": "https://example.org/${env:LINES_SECRET}"}}, {}),
    ({"x": {"op": "load", "path": "${host}${env:LINES_SECRET}"}}, {"vars": {"host": "https://example.org/"}}),
    ({"x": {"op": "load", "path": "${url}"}}, {"vars": {"url": "s3://b/${env:LINES_SECRET}"}}),
    ({"x": {"op": "load", "path": "https://e.org/{k}", "for_each": {"k": ["${env:LINES_SECRET}"]}}}, {}),
    (
        {"x": {"op": "load", "path": "{a}{b}", "for_each": {"a": ["https://e.org/"], "b": ["${env:LINES_SECRET}"]}}},
        {},
    ),
    ({"x": {"op": "evaluate", "model": "model", "suite": "zoo://glyphs@seed${env:LINES_SECRET}"}}, {}),
]


@pytest.mark.parametrize("check", ALL)
@pytest.mark.parametrize(("nodes", "top"), URLS)
def test_the_environment_goes_into_urls_of_trusted_recipes_only(
    check: Check, nodes: dict[str, Any], top: dict[str, Any], stranger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINES_SECRET", "hush-hush")
    recipe = write(stranger, {**SAVED, **nodes}, **top)
    with pytest.raises(RecipeError, match=r"URL, but .* is not a trusted folder; give --trust") as raised:
        check(recipe)
    assert "hush-hush" not in str(raised.value)


def test_the_environment_may_be_in_paths_of_this_machine(stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES_FOLDER", str(stranger))
    nodes = {"x": {"op": "load", "path": "${env:LINES_FOLDER}/{k}.safetensors", "for_each": {"k": ["a"]}}}
    assert lines_pipeline.validate(write(stranger, {**SAVED, **nodes})).steps == 3


def test_what_the_user_sets_is_the_users(stranger: Path) -> None:
    recipe = write(stranger, SAVED)
    assert lines_pipeline.validate(recipe, sets={"engine.scheduler": "tcp://127.0.0.1:8786"}).steps == 2
    recipe = write(stranger, SAVED, engine={"scheduler": "tcp://10.0.0.1:8786"})
    assert lines_pipeline.validate(recipe, sets={"engine.scheduler": "serial"}).steps == 2


def test_a_strangers_recipe_is_not_trusted_for_what_it_extends(stranger: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    trust(mine)
    base = write(mine, SAVED, vars={"server": "https://mine.example.org"}, tracking={"uri": "${server}"})
    write_model(mine / "a.safetensors", 0.5)
    assert lines_pipeline.validate(base).steps == 2
    over = stranger / "over.yaml"
    over.write_text(f"extends: {base}\nvars: {{server: https://example.org}}\n")
    with pytest.raises(RecipeError, match=f"'{stranger}' is not a trusted folder"):
        lines_pipeline.validate(over)
    mine_over = mine / "over.yaml"
    mine_over.write_text(f"extends: {write(stranger, SAVED, tracking={'uri': 'https://example.org'})}\n")
    with pytest.raises(RecipeError, match=f"'{stranger}' is not a trusted folder"):
        lines_pipeline.validate(mine_over)


@pytest.mark.parametrize("argument", ["pretrained", "jit", "cache_dir"])
def test_shipped_factories_need_no_trust_but_for_arguments_that_open_files(argument: str, stranger: Path) -> None:
    names(stranger, "open_clip:ViT-B-32")
    assert lines_pipeline.validate(stranger / "recipe.yaml").notes == ()
    names(stranger, "open_clip:ViT-B-32", **{argument: "x.pt"})
    with pytest.raises(EvalError, match=f"open_clip:ViT-B-32 with {argument}, but .* is not a trusted folder"):
        lines_pipeline.run(stranger / "recipe.yaml")


def test_a_pickle_with_code_is_refused(stranger: Path) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return os.mkdir, ("ran",)

    torch.save({"w": Hostile()}, stranger / "a.safetensors")
    (stranger / "a.safetensors").rename(stranger / "a.pt")
    recipe = stranger / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("a.safetensors", "a.pt"))
    for check in ALL:
        with pytest.raises(LinesError):
            check(recipe, trust=True)
    assert not Path("ran").exists()


def test_yaml_makes_no_objects(stranger: Path) -> None:
    (stranger / "suite.yaml").write_text("model: !!python/object/apply:os.mkdir [ran]\n")
    with pytest.raises(EvalError, match=r"suite\.yaml:1:8: found the tag .*tags are not allowed in a suite"):
        lines_pipeline.validate(stranger / "recipe.yaml")
    recipe = stranger / "other.yaml"
    recipe.write_text("name: !!python/object/apply:os.mkdir [ran]\n")
    with pytest.raises(RecipeError, match="tags are not allowed"):
        lines_pipeline.validate(recipe)
    assert not Path("ran").exists()


@pytest.mark.parametrize("path", ["../out.safetensors", "/tmp/out.safetensors", "a/../../out.safetensors"])
def test_outputs_stay_in_their_folder(path: str, stranger: Path) -> None:
    with pytest.raises(RecipeError, match="expected a file inside the run's output folder"):
        lines_pipeline.validate(write(stranger, {"saved": {"op": "save", "model": "model", "path": path}}))


def command(*words: str | Path) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_list_is_a_file_of_the_users_alone(stranger: Path, tmp_path: Path) -> None:
    completed = command("trust", stranger)
    assert completed.exit_code == 0 and completed.stdout.startswith(f"trusted: {stranger} ")
    assert stat.S_IMODE(store_path().stat().st_mode) == 0o600
    assert json.loads(store_path().read_text()) == [str(stranger)]
    (tmp_path / "link").symlink_to(stranger)
    command("trust", tmp_path / "link")
    assert command("trust", "--list").stdout == f"{stranger}\n"
    assert command("trust", "--remove", stranger).exit_code == 0
    assert trusted_folders() == () and command("trust", "--list").stdout == ""


@pytest.mark.parametrize("words", [[], ["--list", "x"], ["--list", "--remove"], ["nowhere"], ["--remove", "nowhere"]])
def test_mistakes_with_the_list(words: list[str]) -> None:
    result = command("trust", *words)
    assert result.exit_code == 2 or getattr(result.exception, "exit_code", 0) == 2
    assert trusted_folders() == ()


def damage_mode(path: Path) -> None:
    path.write_text(json.dumps(["/"]))
    path.chmod(0o666)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no json": lambda path: path.write_text("["),
    "no list": lambda path: path.write_text('{"/": true}'),
    "a relative folder": lambda path: path.write_text('["."]'),
    "a number": lambda path: path.write_text("[3]"),
    "binary": lambda path: path.write_bytes(b"\xff\x00"),
    "deep": lambda path: path.write_text("[" * 100_000),
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "writable by others": damage_mode,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_list_trusts_nothing_and_says_so(damage: Callable[[Path], object], stranger: Path) -> None:
    store_path().parent.mkdir(parents=True)
    damage(store_path())
    with pytest.raises(EvalError, match=r"not a trusted folder \(the list of trusted folders .* cannot be used"):
        lines_pipeline.run(stranger / "recipe.yaml")
    with pytest.raises(TrustError, match="mend or remove it"):
        trust(stranger)


def leave_record(folder: Path, head: dict[str, Any]) -> Path:
    """A record of a run, as a stranger may write it."""
    started = {"name": "theirs", "params": {}, "tags": {}, "texts": {}, "experiment": "x"}
    lines = [{"version": 1, **head}, {"at": 1, "event": "RunStarted", "fields": started}]
    path = folder / "record-abc.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9/${env:PLANTED}", "http://127.0.0.1:9/mine", "sqlite:///x.db"])
def test_the_address_in_a_strangers_record_is_not_followed(
    uri: str, stranger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED", "s3cr3t-value")
    monkeypatch.setattr("lines_pipeline.tracking.sync.check_reachable", pytest.fail)
    path = leave_record(stranger, {"record": "abc", "uri": uri})
    result = command("sync", str(stranger))
    assert result.exit_code == 1 and "--tracking-uri" in result.stderr and "s3cr3t" not in result.output
    assert path.is_file()


def test_the_address_in_ones_own_record_is_filled_in_and_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED", "s3cr3t-value")
    asked: list[str] = []

    def refuse(uri: str) -> None:
        asked.append(uri)
        raise TrackingError(f"tracking store {uri}: no answer")

    monkeypatch.setattr("lines_pipeline.tracking.sync.check_reachable", refuse)
    Keeper(Head("abc", "http://127.0.0.1:9/${env:PLANTED}"), tmp_path / "mine", []).close()
    (trouble,) = lines_pipeline.api.sync([tmp_path / "mine"]).troubles
    assert asked == ["http://127.0.0.1:9/s3cr3t-value"]
    assert "${env:PLANTED}" in trouble and "s3cr3t" not in trouble


@pytest.mark.parametrize(
    "head", [{"record": "abc", "uri": 5}, {"record": "../../x", "uri": "a"}, {"record": 1, "uri": "a"}, {"uri": "a"}]
)
def test_a_record_that_is_none_is_a_trouble_of_its_own(head: dict[str, Any], stranger: Path) -> None:
    leave_record(stranger, head)
    os.mkfifo(stranger / "record-pipe.jsonl")
    (stranger / "record-gone.jsonl").symlink_to("nowhere")
    (stranger / "record-list.jsonl").write_text('{"record": "a", "uri": "b"}\n{"event": "Note", "fields": []}\n\n')
    report = lines_pipeline.api.sync([stranger])
    assert len(report.troubles) == 4 and report.sent == ()
    assert all("the record waits in" in trouble for trouble in report.troubles)


HANGS = """\
import os, sys
import lines_pipeline
os.mkfifo("pipe")
for text in ("extends: pipe\\n", "extends: /dev/zero\\n", "extends: .\\n"):
    open("r.yaml", "w").write(text)
    for path in ("r.yaml", "pipe", "/dev/zero", "."):
        try:
            lines_pipeline.validate(path)
        except lines_pipeline.LinesError as error:
            print(error)
for suite in ("pipe", "/dev/zero", "."):
    nodes = "{m: {op: load, path: 'zoo://glyphs/pretrained'}, e: {op: evaluate, model: m, suite: %s}}" % suite
    open("r.yaml", "w").write("name: x\\nnodes: " + nodes + "\\n")
    try:
        lines_pipeline.validate("r.yaml")
    except lines_pipeline.LinesError as error:
        print(error)
"""


def test_pipes_devices_and_folders_are_refused_at_once(tmp_path: Path) -> None:
    completed = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert completed.returncode == 0, completed.stderr
    lines = completed.stdout.splitlines()
    assert len(lines) == 15 and all("is a folder" in line or "not a regular file" in line for line in lines), lines
