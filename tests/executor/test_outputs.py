"""What ``save`` writes: files and folders that others can open, where they may lie, and what is told of them."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from toy_suite import above, write_model, write_suite

import lines_pipeline
from lines_pipeline.core.errors import PlanError, RecipeError
from lines_pipeline.core.events import Event, FileWritten
from lines_pipeline.executor.outputs import planned_destination

pytestmark = pytest.mark.usefixtures("shared_store")
Recipe = Callable[..., Path]
WIDTH, ROWS = 4, 10


def state(seed: float, *, rows: int = ROWS) -> dict[str, torch.Tensor]:
    """A language model's tensors as far as these tests need them."""
    return {
        "model.embed_tokens.weight": torch.full((rows, WIDTH), seed),
        "model.layers.0.mlp.weight": torch.full((WIDTH, WIDTH), seed),
        "model.norm.weight": torch.full((WIDTH,), seed),
    }


CONFIG: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": ROWS,
    "torch_dtype": "float32",
    "quantization_config": {"quant_method": "none"},
}
COMPANIONS = {
    "tokenizer.json": "{}",
    "tokenizer_config.json": "{}",
    "special_tokens_map.json": "{}",
    "merges.txt": "a b",
    "spiece.model": "m",
    "chat_template.jinja": "{{ x }}",
    "additional_chat_templates/tools.jinja": "{{ y }}",
    "generation_config.json": "{}",
    "preprocessor_config.json": "{}",
    "processor_config.json": "{}",
    "LICENSE": "MIT",
}
OTHERS = {
    "modeling_own.py": "raise SystemExit",
    "optimizer.pt": "x",
    "rng_state.pth": "x",
    "scheduler.pt": "x",
    "training_args.bin": "x",
    "trainer_state.json": "{}",
    "tf_model.h5": "x",
    "README.md": "---\nlicense: mit\n---\n# theirs",
    ".gitattributes": "x",
    "checkpoint-5/config.json": "{}",
    "onnx/model.onnx": "x",
}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Model folders ``base``, ``a`` and ``b``; the base has companions, and files that are none."""
    for seed, name in enumerate(("base", "a", "b"), start=1):
        (tmp_path / name).mkdir()
        save_file(state(float(seed)), tmp_path / name / "model.safetensors", {"format": "pt"})
    write_files(tmp_path / "base", {"config.json": json.dumps(CONFIG), **COMPANIONS, **OTHERS})
    return tmp_path


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def recipe_of(folder: Path, saved: Mapping[str, Any], **more: Mapping[str, Any]) -> Path:
    nodes = {
        "base": {"op": "load", "path": "base"},
        "experts": {"op": "load", "path": "{e}", "for_each": {"e": ["a", "b"]}},
        "updates": {"op": "task-vector", "model": "experts", "base": "base"},
        "summed": {"op": "task-arithmetic", "deltas": "updates", "weights": 0.5},
        "model": {"op": "apply", "base": "base", "delta": "summed"},
        "saved": {"op": "save", "model": "model", **saved},
        **more,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "tested", "nodes": nodes}))
    return path


def run(recipe: Path, **options: Any) -> Any:
    return lines_pipeline.run(recipe, out="out", scheduler="serial", **options)


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_a_model_folder_has_what_the_base_has_and_nothing_of_its_training(folders: Path) -> None:
    result = run(recipe_of(folders, {"path": "merged/"}))
    tensors = contents(Path("out/merged"))
    made_files = {"model.safetensors", "config.json", "README.md", "lines_pipeline.json"}
    assert set(tensors) == {*COMPANIONS, *made_files}
    assert all(tensors[name].decode() == text for name, text in COMPANIONS.items())
    config = {key: value for key, value in CONFIG.items() if key != "quantization_config"}
    assert json.loads(tensors["config.json"]) == config
    assert load_file("out/merged/model.safetensors")["model.norm.weight"].tolist() == [2.5] * WIDTH
    assert {path.relative_to(Path("out/merged").absolute()).as_posix() for path in result.files} == set(tensors)
    assert [note for note in result.notes if "modeling_own.py left out" in note]


def test_the_card_tells_recipe_inputs_digests_licenses(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "base")
    run(recipe_of(folders, {"path": "merged/"}, base={"op": "load", "path": "${env:WHERE}"}))
    card = Path("out/merged/README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["base_model"] == ["${env:WHERE}", "a", "b"] and front["tags"] == ["merge", "lines-pipeline"]
    assert "license" not in front and "| base | ${env:WHERE} |" in card and "| mit |" in card
    with safe_open("out/merged/model.safetensors", "pt") as file:
        metadata = file.metadata()
    digests = json.loads(metadata["inputs"])
    assert metadata["format"] == "pt" and all(digest in card for digest in digests.values())
    assert metadata["recipe_hash"] in card and "op: task-arithmetic" in card and "path: base}" not in card


def test_equal_recipes_give_equal_folders_and_a_second_run_writes_nothing(folders: Path) -> None:
    recipe = recipe_of(folders, {"path": "merged/", "max_shard_size": "200B"})
    first = run(recipe)
    tensors, times = contents(Path("out")), [path.stat().st_mtime_ns for path in first.files]
    again = run(recipe)
    assert again.cached == ("saved",) and again.files == first.files
    assert [path.stat().st_mtime_ns for path in again.files] == times
    shutil.rmtree("out")
    run(recipe, cache=False)
    assert contents(Path("out")) == tensors


@pytest.mark.parametrize("change", ["base/tokenizer.json", "out/merged/tokenizer.json"])
def test_a_companion_that_changed_is_written_anew(change: str, folders: Path) -> None:
    recipe = recipe_of(folders, {"path": "merged/"})
    run(recipe)
    (folders / change).write_text('{"changed": 1}')
    assert run(recipe).cached == ()
    assert Path("out/merged/tokenizer.json").read_text() == (folders / "base/tokenizer.json").read_text()


def test_another_base_leaves_nothing_of_the_first(folders: Path) -> None:
    run(recipe_of(folders, {"path": "merged/", "max_shard_size": "200B"}))
    write_files(folders / "a", {"config.json": json.dumps(CONFIG), "vocab.txt": "v"})
    run(recipe_of(folders, {"path": "merged/", "like": "experts[a]"}))
    texts = ["README.md", "config.json", "lines_pipeline.json", "model.safetensors", "vocab.txt"]
    assert sorted(contents(Path("out/merged"))) == texts


@pytest.mark.parametrize(("dtype", "stored"), [("keep", "float32"), ("float16", "float16"), ("bfloat16", "bfloat16")])
@pytest.mark.parametrize("key", ["torch_dtype", "dtype", ""])
def test_the_configuration_tells_the_stored_type(dtype: str, stored: str, key: str, folders: Path) -> None:
    config = {"model_type": "llama", "vocab_size": ROWS} | ({key: "float64"} if key else {})
    config["text_config"] = {"model_type": "t", "dtype": "float64"}
    (folders / "base/config.json").write_text(json.dumps(config))
    run(recipe_of(folders, {"path": "merged/", "dtype": dtype}))
    printed = json.loads(Path("out/merged/config.json").read_text())
    assert printed[key or "torch_dtype"] == printed["text_config"]["dtype"] == stored


def test_the_configuration_tells_the_rows_of_the_embedding(folders: Path) -> None:
    config = {**CONFIG, "vocab_size": 99, "text_config": {"vocab_size": 99}, "vision_config": {"hidden_size": 99}}
    (folders / "base/config.json").write_text(json.dumps(config))
    run(recipe_of(folders, {"path": "merged/"}))
    printed = json.loads(Path("out/merged/config.json").read_text())
    assert printed["vocab_size"] == printed["text_config"]["vocab_size"] == ROWS
    assert printed["vision_config"] == {"hidden_size": 99}


def test_a_configuration_that_is_right_keeps_its_bytes(folders: Path) -> None:
    text = '{ "model_type":"llama","vocab_size":10,   "dtype": "float32"}'
    (folders / "base/config.json").write_text(text)
    run(recipe_of(folders, {"path": "merged/"}))
    assert Path("out/merged/config.json").read_text() == text


def test_a_configuration_that_is_no_json_is_refused_before_the_run(folders: Path) -> None:
    (folders / "base/config.json").write_text("{")
    with pytest.raises(PlanError, match=r"node 'saved': config\.json of the folder that 'base' loads: not valid JSON"):
        lines_pipeline.validate(recipe_of(folders, {"path": "merged/"}))


def test_without_a_configuration_weights_are_written_and_that_is_said(folders: Path) -> None:
    (folders / "base/config.json").unlink()
    result = run(recipe_of(folders, {"path": "merged/", "max_shard_size": "200B"}))
    assert {path.name for path in result.files} - {"README.md", "lines_pipeline.json"} == {
        *(f"model-0000{n}-of-00002.safetensors" for n in (1, 2)),
        "model.safetensors.index.json",
    }
    assert result.notes == (
        "note: node 'saved': no config.json lies beside model.safetensors, so only weights are written; "
        "'like' names a node whose folder to follow",
    )


def test_like_is_followed_and_not_computed(folders: Path) -> None:
    """It names a merge that could not be computed: its models differ in shape."""
    (folders / "b/model.safetensors").unlink()
    save_file(state(3.0, rows=7), folders / "b/model.safetensors")
    write_files(folders / "b", {"config.json": json.dumps({"model_type": "other"})})
    nodes: dict[str, dict[str, Any]] = {
        "other": {"op": "soup", "models": ["experts[b]", "base"]},
        "model": {"op": "soup", "models": ["base", "experts[a]"]},
        "updates": {"op": "task-vector", "model": "experts[a]", "base": "base"},
    }
    run(recipe_of(folders, {"path": "merged/", "like": "other"}, **nodes))
    assert json.loads(Path("out/merged/config.json").read_text())["model_type"] == "other"


def test_links_out_of_the_folder_are_not_followed(folders: Path) -> None:
    (folders / "private.json").write_text("secret")
    (folders / "base/vocab.json").symlink_to(folders / "private.json")
    (folders / "base/added_tokens.json").symlink_to("tokenizer.json")
    result = run(recipe_of(folders, {"path": "merged/"}))
    assert not Path("out/merged/vocab.json").exists() and Path("out/merged/added_tokens.json").read_text() == "{}"
    assert [note for note in result.notes if "vocab.json left out" in note]


def test_a_downloaded_snapshot_links_to_its_blobs(folders: Path) -> None:
    snapshot, blobs = folders / "models--o--r/snapshots/1", folders / "models--o--r/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, (name, content) in enumerate(contents(folders / "base").items()):
        if "/" not in name:
            (blobs / str(number)).write_bytes(content)
            (snapshot / name).symlink_to(f"../../blobs/{number}")
    (folders / "file.safetensors").symlink_to(snapshot / "model.safetensors")
    for path in (str(snapshot), "file.safetensors"):
        run(recipe_of(folders, {"path": "merged/"}, base={"op": "load", "path": path}))
        assert Path("out/merged/tokenizer.json").read_text() == "{}"


@pytest.mark.parametrize("place", ["", "0_Transformer"])
def test_modules_of_sentence_transformers_come_along(place: str, folders: Path) -> None:
    modules = [{"idx": 0, "path": place}, {"idx": 1, "path": "1_Pooling"}, {"idx": 2, "path": "../escape"}]
    for name in ("base", "a", "b"):
        if place:
            (folders / name).rename(folders / "moved")
            (folders / name).mkdir()
            (folders / "moved").rename(folders / name / place)
        root = {"modules.json": json.dumps(modules), "config_sentence_transformers.json": "{}"}
        write_files(folders / name, {**root, "1_Pooling/config.json": "{}", "1_Pooling/model.safetensors": "w"})
    write_files(folders / "escape", {"config.json": "{}"})
    nodes: dict[str, dict[str, Any]] = {
        "base": {"op": "load", "path": f"base/{place}"},
        "experts": {"op": "load", "path": "{e}/" + place, "for_each": {"e": ["a", "b"]}},
    }
    result = run(recipe_of(folders, {"path": "merged/"}, **nodes))
    inside = f"{place}/" if place else ""
    tensors = contents(Path("out/merged"))
    outside = {"modules.json", "config_sentence_transformers.json", "README.md", "lines_pipeline.json"}
    module = {"1_Pooling/config.json", "1_Pooling/model.safetensors"}
    own = {f"{inside}{name}" for name in ("model.safetensors", "config.json", *COMPANIONS)}
    assert set(tensors) == outside | module | own
    assert [note for note in result.notes if "1_Pooling/model.safetensors copied as it is" in note]


REFUSED = {
    "merged": r"'path' is 'merged', expected a file \('merged.safetensors'\) or a model folder \('merged/'\)",
    "x.safetensors/": r"expected a file \('x.safetensors'\) or a model folder \('x/'\)",
    "x.pt": "expected a file",
    "./": "expected a file inside",
    "a/../../x/": "expected a file inside",
    "a" * 201 + "/": "expected names of at most 200 bytes",
}


@pytest.mark.parametrize("path", REFUSED)
def test_paths_that_are_refused(path: str, folders: Path) -> None:
    with pytest.raises(RecipeError, match=REFUSED[path]):
        lines_pipeline.validate(recipe_of(folders, {"path": path}))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a.safetensors", "./a.safetensors"),
        ("x//a.safetensors", "x/a.safetensors"),
        ("A.safetensors", "a.safetensors"),
        ("a.safetensors", "a-00001-of-00002.safetensors"),
        ("x/", "x/model.safetensors"),
        ("x/", "x/y/"),
        ("x/", "X/"),
        ("a.safetensors", "a.safetensors/b.safetensors"),
    ],
)
def test_two_nodes_that_would_meet_are_refused(first: str, second: str, folders: Path) -> None:
    for one_path, other_path in ((first, second), (second, first)):
        recipe = recipe_of(folders, {"path": one_path}, second={"op": "save", "model": "model", "path": other_path})
        with pytest.raises(RecipeError, match="'saved' and 'second' both write"):
            lines_pipeline.validate(recipe)


def test_a_model_folder_is_for_weights_and_like_for_model_folders(folders: Path) -> None:
    recipe = recipe_of(folders, {"path": "x/", "model": "summed"})
    with pytest.raises(RecipeError, match="a model folder holds weights, but 'summed' gives delta"):
        lines_pipeline.validate(recipe)
    with pytest.raises(RecipeError, match="'like' is for model folders"):
        lines_pipeline.validate(recipe_of(folders, {"path": "x.safetensors", "like": "base"}))


def test_what_a_run_reads_it_does_not_replace(folders: Path) -> None:
    before = contents(folders / "base")
    for path in ("base/", "base/model.safetensors"):
        with pytest.raises(PlanError, match=r"would replace .*, which ('base' loads|it is to follow); choose another"):
            lines_pipeline.run(recipe_of(folders, {"path": path}), out=folders)
    assert contents(folders / "base") == before


def test_an_input_that_an_earlier_run_wrote_is_not_removed(folders: Path) -> None:
    """The second run follows another base, so that it would write the weights under another name."""
    (folders / "base" / "model.safetensors").rename(folders / "base" / "open_clip_model.safetensors")
    run(recipe_of(folders, {"path": "merged/"}))
    before = contents(Path("out/merged"))
    assert "open_clip_model.safetensors" in before
    write_files(folders / "a", {"config.json": json.dumps(CONFIG)})
    merged = {"op": "load", "path": str(Path("out/merged").resolve())}
    recipe = recipe_of(folders, {"path": "merged/", "like": "experts[a]"}, base=merged)
    with pytest.raises(PlanError, match=r"would replace open_clip_model\.safetensors, which 'base' loads"):
        run(recipe)
    assert contents(Path("out/merged")) == before


def test_an_index_and_shards_of_an_input_are_not_removed(folders: Path) -> None:
    """A file that is written takes the place of the shards of the same name, and of their index."""
    run(recipe_of(folders, {"path": "model.safetensors", "max_shard_size": "200B"}))
    before = contents(Path("out"))
    merged = {"op": "load", "path": str(Path("out").resolve())}
    with pytest.raises(PlanError, match=r"would replace model.*, which 'base' loads"):
        run(recipe_of(folders, {"path": "model.safetensors"}, base=merged))
    assert contents(Path("out")) == before


def test_a_working_directory_that_is_gone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(PlanError, match="the working directory is gone"):
        planned_destination("out")
    monkeypatch.chdir(tmp_path)


def test_a_link_in_the_output_folder_is_not_followed_out(folders: Path) -> None:
    Path("out/merged").mkdir(parents=True)
    Path("out/merged/additional_chat_templates").symlink_to(folders)
    with pytest.raises(PlanError, match="outside"):
        run(recipe_of(folders, {"path": "merged/"}))


def test_shards_are_told_one_by_one(folders: Path) -> None:
    events: list[Event] = []
    result = run(recipe_of(folders, {"path": "model.safetensors", "max_shard_size": "200B"}), sinks=[events.append])
    shards = [Path(f"out/model-0000{n}-of-00002.safetensors").absolute() for n in (1, 2)]
    index = Path("out/model.safetensors.index.json").absolute()
    assert result.files == (*shards, index) and result.to_dict()["files"] == [str(path) for path in result.files]
    (written,) = [event for event in events if isinstance(event, FileWritten)]
    assert written.path == index and written.files == result.files
    assert written.nbytes == sum(path.stat().st_size for path in result.files)


@pytest.mark.parametrize("sizes", [("200B", None), (None, "200B"), ("100B", "200B")])
def test_a_rerun_leaves_nothing_of_the_first(sizes: tuple[str | None, str | None], folders: Path) -> None:
    for size, weight in zip(sizes, (0.5, 0.25), strict=True):
        recipe = recipe_of(folders, {"path": "model.safetensors", "max_shard_size": size})
        result = run(recipe, sets={"nodes.summed.weights": weight})
    assert sorted(contents(Path("out"))) == sorted(path.name for path in result.files)


def test_a_later_run_loads_what_the_last_one_wrote(folders: Path) -> None:
    """First shards, then one file; then the folder is an input."""
    for size, weight in (("200B", 0.5), (None, 0.25)):
        saved = {"path": "merged/", "max_shard_size": size}
        run(recipe_of(folders, saved), sets={"nodes.summed.weights": weight})
    copy = folders / "copy.yaml"
    nodes = {
        "m": {"op": "load", "path": "out/merged"},
        "s": {"op": "soup", "models": ["m"]},
        "w": {"op": "save", "model": "s", "path": "again/"},
    }
    copy.write_text(yaml.safe_dump({"name": "copy", "nodes": nodes}))
    lines_pipeline.run(copy, out="out2")
    assert load_file("out2/again/model.safetensors")["model.norm.weight"].tolist() == [1.75] * WIDTH
    assert Path("out2/again/tokenizer.json").is_file()


Disk = namedtuple("Disk", "total used free")


def test_a_full_disk_is_a_note_of_validate_and_plan_and_refused_by_run(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Disk(10, 10, 10))
    recipe = recipe_of(folders, {"path": "merged/"})
    (note,) = lines_pipeline.validate(recipe, out="there").notes[-1:]
    assert "there/merged/model.safetensors" in note and "free some space or choose another --out" in note
    report = lines_pipeline.plan(recipe, out="there")
    assert report.shortages == (note,) and f"  note: {note}" in report.render() and report.passes
    with pytest.raises(PlanError, match="free some space or choose another --out"):
        lines_pipeline.run(recipe, out="there")
    assert not Path("there").exists() and not Path("runs").exists()


@pytest.mark.parametrize("command", [lines_pipeline.validate, lines_pipeline.plan])
def test_out_is_checked_and_nothing_is_written(command: Callable[..., Any], folders: Path) -> None:
    recipe = recipe_of(folders, {"path": "model.safetensors"})
    with pytest.raises(PlanError, match="is a file"):
        command(recipe, out=recipe)
    with pytest.raises(PlanError, match="nonsense://x: cannot be used"):
        command(recipe, out="nonsense://x")
    (folders / "taken/model.safetensors").mkdir(parents=True)
    with pytest.raises(PlanError, match=r"is a folder, not a file; to write a model folder there, say"):
        command(recipe, out=folders / "taken")
    command(recipe, out="fresh")
    assert not Path("fresh").exists()


def test_an_object_store_gets_a_whole_folder_and_keeps_nothing_old(folders: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    url = f"memory://bucket/{folders.name}"
    recipe = recipe_of(folders, {"path": "merged/"})
    for size in ("200B", None):
        result = lines_pipeline.run(recipe, out=url, sets={"nodes.saved.max_shard_size": size})
    run(recipe, cache=False)
    store = fsspec.filesystem("memory")
    there = store.find(f"/bucket/{folders.name}/merged")
    assert sorted(name.rsplit("/merged/", 1)[1] for name in there) == sorted(contents(Path("out/merged")))
    assert sorted(result.urls) == sorted(f"memory:/{name}" for name in there)


def test_metrics_of_the_model_stand_in_its_card(toy: Path) -> None:
    write_model(toy / "base.safetensors", 1.0)
    write_suite(toy, {"rise": {"val": above(0.5, 2.0)}})
    recipe = toy / "recipe.yaml"
    nodes = {
        "base": {"op": "load", "path": "base.safetensors"},
        "other": {"op": "load", "path": "base.safetensors"},
        "model": {"op": "soup", "models": ["base", "other"]},
        "val": {"op": "evaluate", "model": "model", "suite": "suite.yaml", "split": "val"},
        "elsewhere": {"op": "evaluate", "model": "base", "suite": "suite.yaml", "split": "val"},
        "saved": {"op": "save", "model": "model", "path": "merged/"},
    }
    recipe.write_text(yaml.safe_dump({"name": "judged", "nodes": nodes}))
    result = run(recipe)
    card = Path("out/merged/README.md").read_text()
    assert f"| val | mean_accuracy | {result.metrics['val']['mean_accuracy']:.6g} |" in card
    assert "| elsewhere |" not in card
    with safe_open("out/merged/model.safetensors", "pt") as file:
        assert "mean_accuracy" not in str(file.metadata())
