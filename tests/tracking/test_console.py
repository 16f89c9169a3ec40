"""Progress: bars on a terminal, of which nothing stays behind, and now and then a plain line elsewhere."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from rich.console import Console

from lines_pipeline.core.events import (
    Event,
    FileWritten,
    InputsIdentified,
    LearningProgress,
    MetricsComputed,
    ParamsChosen,
    RunFinished,
    StageFinished,
    StageProgress,
    StageStarted,
    TrialFinished,
    TrialStarted,
    ZooProgress,
)
from lines_pipeline.tracking.console import ConsoleSink, LogSink, progress

MB = 1_000_000
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
"""What a terminal is sent to hide and show its cursor."""

SWEEP = (StageStarted("1/2", 4 * MB), StageProgress(1 * MB), StageFinished("1/2", 0.1, 1 * MB, 0))
WRITTEN = FileWritten("saved", Path("model.safetensors"), 100)
TRIAL = TrialStarted(0, 3, {"scaled.beta": 0.30000000000000004, "merged.aggregate": "sum"})
TUNED = ParamsChosen({"scaled.beta": 0.3}, 0.9)


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


def shown(events: Iterable[Event]) -> str:
    """Everything that a terminal is sent for the events."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system=None, width=100)
    with ConsoleSink(console) as sink:
        for event in events:
            sink(event)
    return file.getvalue()


def last(text: str, name: str) -> str:
    """The last line that was shown of a bar."""
    lines = [line for line in re.split(r"[\r\n]", re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", text)) if name in line]
    assert lines, text
    return re.sub(r"[━╸╺ ]+", " ", lines[-1])


def test_a_sweep_is_counted_in_bytes() -> None:
    assert last(shown(SWEEP), "pass 1/2").startswith("pass 1/2 1.0/4.0 MB 0:00:0")


def test_a_sweep_of_unknown_length_has_a_bar_too() -> None:
    assert "0/? bytes" in last(
        shown([StageStarted("1 sample", 0), StageFinished("1 sample", 0.1, 0, 0)]), "pass 1 sample"
    )


def test_sweeps_follow_one_another() -> None:
    text = shown(
        [*SWEEP, StageStarted("2/2", 2 * MB), StageProgress(2 * MB), StageFinished("2/2", 0.1, 2 * MB, 0), WRITTEN]
    )
    assert "1.0/4.0 MB" in last(text, "pass 1/2")
    assert "2.0/2.0 MB" in last(text, "pass 2/2")


def test_trials_are_counted_and_their_sweeps_are_not_shown() -> None:
    second = TrialStarted(1, 3, {"scaled.beta": 0.5, "merged.aggregate": "mean"})
    text = shown([TRIAL, *SWEEP, TrialFinished(0, 0.9, {}), second, *SWEEP, TrialFinished(1, 0.8, {})])
    assert "pass" not in text
    assert last(text, "beta=0.5").startswith("trial scaled.beta=0.5, merged.aggregate=mean 2/3")


def test_values_of_trials_are_rounded_for_reading() -> None:
    assert last(shown([TRIAL]), "trial").startswith("trial scaled.beta=0.3, merged.aggregate=sum 0/3")


def test_after_the_trials_sweeps_are_shown_again() -> None:
    text = shown([TRIAL, *SWEEP, TrialFinished(0, 0.9, {}), TUNED, *SWEEP, WRITTEN])
    assert text.index("trial scaled.beta=0.3") < text.index("pass 1/2")
    assert "1.0/4.0 MB" in last(text, "pass 1/2")


def test_the_zoo_is_counted_in_steps() -> None:
    text = shown([ZooProgress(0, 400, "digits"), ZooProgress(100, 400, "greek"), *SWEEP])
    assert last(text, "fine-tuning greek").startswith("fine-tuning greek 100/400")
    assert "pass 1/2" in text


def test_what_is_learned_is_counted_in_steps_but_within_trials() -> None:
    text = shown([LearningProgress("learned", 3, 500, 1.0), *SWEEP])
    assert last(text, "learning learned").startswith("learning learned 3/500")
    assert "learning" not in shown([TRIAL, LearningProgress("learned", 3, 500, 1.0)])


def test_a_finished_zoo_takes_its_bar_away() -> None:
    text = shown([ZooProgress(0, 2, "digits"), ZooProgress(2, 2, "digits"), RunFinished("FINISHED", 1.0)])
    assert "2/2" in last(text, "fine-tuning digits")
    assert text.endswith(SHOW + "\r\x1b[1A\x1b[2K")


@pytest.mark.parametrize(
    "events",
    [
        SWEEP,
        SWEEP[:2],
        [TRIAL],
        [TRIAL, TrialFinished(0, 0.9, {}), TUNED],
        [StageStarted("1/1", MB), MetricsComputed("val", {"mean_accuracy": 0.5}, False)],
        [StageStarted("1/1", MB), WRITTEN],
        [ZooProgress(0, 2, "digits")],
    ],
    ids=["a sweep", "a sweep cut short", "a trial cut short", "trials", "metrics", "a file", "the zoo cut short"],
)
def test_bars_are_erased_and_the_cursor_comes_back(events: list[Event]) -> None:
    text = shown(events)
    assert text.count(HIDE) == text.count(SHOW) == 1
    assert text.endswith(SHOW + "\r\x1b[1A\x1b[2K")


def interrupted(file: io.StringIO) -> None:
    with ConsoleSink(Console(file=file, force_terminal=True)) as sink:
        sink(SWEEP[0])
        raise KeyboardInterrupt


def test_bars_are_erased_when_a_run_is_interrupted() -> None:
    file = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        interrupted(file)
    assert file.getvalue().endswith(SHOW + "\r\x1b[1A\x1b[2K")


def test_other_events_show_nothing() -> None:
    assert shown([InputsIdentified({}), StageProgress(1), RunFinished("FINISHED", 1.0), TUNED, WRITTEN]) == ""


def logged(*events: tuple[float, Event]) -> list[str]:
    """The lines that a pipe is sent for events, each so many seconds after the one before."""
    file, now = io.StringIO(), 0.0
    sink = LogSink(Console(file=file, width=20), clock=lambda: now)
    for seconds, event in events:
        now += seconds
        sink(event)
    return file.getvalue().splitlines()


def test_a_pipe_is_told_of_sweeps_in_plain_lines() -> None:
    lines = logged(*((6, event) for event in (*SWEEP, RunFinished("FINISHED", 18.0))))
    assert lines == ["pass 1/2: 1.0 of 4.0 MB", "pass 1/2: done, 1.0 MB in 0.1 s"]
    assert logged((0, StageStarted("1 sample", 0)), (6, StageProgress(MB))) == ["pass 1 sample: 1.0 MB"]


def test_a_pipe_is_told_of_trials_and_their_sweeps() -> None:
    events = (TRIAL, SWEEP[0], SWEEP[1], TrialFinished(0, 0.9, {}), TUNED, SWEEP[0], SWEEP[1])
    trial = "trial 1 of 3, scaled.beta=0.3, merged.aggregate=sum"
    assert logged(*((6, event) for event in events)) == [
        f"{trial}, pass 1/2: 1.0 of 4.0 MB",
        f"{trial}, objective 0.9",
        "pass 1/2: 1.0 of 4.0 MB",
    ]


def test_a_pipe_is_told_of_the_zoo_and_of_evaluations() -> None:
    declared = {"accuracy": "share, higher is better", "loss": "nats, lower is better"}
    units = {"mean_accuracy": "share", "mean_loss": "nats"}
    evaluated = MetricsComputed("val", {"mean_accuracy": 0.5, "mean_loss": 1.25}, False, units, declared)
    learning = LearningProgress("learned", 10, 500, 1.25)
    assert logged((6, learning)) == ["learning learned: 10 of 500 steps, loss 1.25"]
    lines = logged((6, ZooProgress(100, 400, "zoo://glyphs/greek")), (6, evaluated))
    assert lines == ["fine-tuning zoo://glyphs/greek: 100 of 400 steps", "val: accuracy 50.0 %, loss 1.25 nats"]


def test_a_pipe_is_told_nothing_of_what_is_quick_and_a_line_every_few_seconds_of_the_rest() -> None:
    everything = [ZooProgress(0, 2, "digits"), TRIAL, *SWEEP, TrialFinished(0, 0.9, {}), TUNED, *SWEEP, WRITTEN]
    assert logged(*((0.1, event) for event in everything)) == []
    lines = logged(*((1, ZooProgress(done, 60, "digits")) for done in range(60)))
    assert lines == [f"fine-tuning digits: {done} of 60 steps" for done in range(4, 60, 5)]


def test_a_pipe_is_sent_names_as_they_are() -> None:
    assert logged((6, ZooProgress(1, 2, "[bold]:ok:"))) == ["fine-tuning [bold]:ok:: 1 of 2 steps"]


@pytest.mark.parametrize("terminal", [True, False])
def test_bars_are_for_terminals(terminal: bool) -> None:
    file = io.StringIO()
    with progress(Console(file=file, force_terminal=terminal)) as sink:
        for event in SWEEP:
            sink(event)
    assert bool(file.getvalue()) == terminal
