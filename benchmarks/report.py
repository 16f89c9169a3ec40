"""The measured parts of ``docs/performance.md``: Markdown tables, put between markers of the page."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

from measuring import Measurement

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"

HEADINGS = (
    "tool",
    "seconds",
    "first run",
    "processor",
    "to ours",
    "to the floor",
    "anonymous peak",
    "mapped peak",
    "read",
    "written",
    "differs",
)


def put(name: str, text: str, page: Path = PAGE) -> None:
    """Replace what stands between ``<!-- NAME -->`` and ``<!-- /NAME -->`` on the page."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, marker, rest = page.read_text().partition(start)
    _, closed, after = rest.partition(end)
    if not marker or not closed:
        raise ValueError(f"{page} has no part marked {start} ... {end}")
    page.write_text(f"{before}{start}\n\n{text.strip()}\n\n{end}{after}")


def comparison(measurements: Sequence[Measurement], floor_seconds: float) -> str:
    """A table a method: every tool, and the sweeps of this project under it."""
    methods = dict.fromkeys(measurement.method for measurement in measurements)
    return "\n\n".join(
        f"**{method}**\n\n" + _method_table([m for m in measurements if m.method == method], floor_seconds)
        for method in methods
    )


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, its first column to the left and all others to the right."""
    lines = [headings, ["---", *["--:"] * (len(headings) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def machine() -> str:
    """This machine in words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{os.cpu_count()} cores, {memory / 2**30:.0f} GiB of memory, {platform.machine()}, {platform.system()}"


def gigabytes(count: float) -> str:
    """``1.23 GB``; GB is 10^9."""
    return f"{count / 1e9:.2f} GB"


def _method_table(measurements: Sequence[Measurement], floor_seconds: float) -> str:
    ours = next((m.median.seconds for m in measurements if m.sweeps), None)
    rows: list[list[str]] = []
    for measurement in measurements:
        rows.append(_row(measurement, ours, floor_seconds))
        if measurement.sweeps:
            rows += _sweep_rows(measurement, floor_seconds)
    failures = [f"- {m.title} failed: `{m.median.failure}`" for m in measurements if m.median.failure]
    return "\n\n".join([table(HEADINGS, rows), *failures])


def _row(measurement: Measurement, ours: float | None, floor_seconds: float) -> list[str]:
    figures = measurement.median
    sizes = [figures.anonymous_peak_bytes, figures.mapped_peak_bytes, figures.read_bytes, figures.written_bytes]
    if figures.failure:
        return [measurement.title, f"failed at {figures.seconds:.1f}", "", "", "", "", *map(gigabytes, sizes), ""]
    return [
        measurement.title,
        f"{figures.seconds:.2f}",
        f"{measurement.first_seconds:.2f}" if measurement.runs > 1 else "the only",
        f"{figures.processor_seconds:.1f}",
        f"{figures.seconds / ours:.1f}" if ours else "",
        f"{figures.seconds / floor_seconds:.1f}",
        *map(gigabytes, sizes),
        "" if measurement.difference is None else f"{100 * measurement.difference:.2g} %",
    ]


def _sweep_rows(measurement: Measurement, floor_seconds: float) -> Iterable[list[str]]:
    """With writing, and without what writing takes alone."""
    sweeps = measurement.sweeps
    assert sweeps is not None, "asked for the sweeps of a tool that records none"
    name = f"– its {sweeps.count} sweeps" if sweeps.count > 1 else "– its sweep"
    for what, seconds, sizes in (
        (name, sweeps.seconds, (sweeps.read_bytes, sweeps.written_bytes)),
        ("– less writing", sweeps.seconds - measurement.writing_seconds, (sweeps.read_bytes,)),
    ):
        ratio = f"{seconds / floor_seconds:.1f}"
        yield [what, f"{seconds:.2f}", "", "", "", ratio, "", "", *map(gigabytes, sizes), *[""] * (3 - len(sizes))]
