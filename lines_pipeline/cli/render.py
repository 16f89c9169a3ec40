"""Prints results on the command line, as tables that fit 100 columns and cut no name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from lines_pipeline.core.printable import printable, printable_message
from lines_pipeline.core.units import figure_text, interval_text
from lines_pipeline.results import RunResult, computed_text

if TYPE_CHECKING:
    from lines_pipeline.cache.report import CacheReport
    from lines_pipeline.tracking.comparison import Comparison
    from lines_pipeline.tracking.sync import SyncReport


_COLUMNS_OF_A_PIPE = 10_000
_BOUNDLESS = 10_000
"""Columns that any table fits in."""
_MOST_COLUMNS = 4
"""A node with more members than that has these as rows."""

_Metrics = Mapping[str, Mapping[str, float]]
_Units = Mapping[str, Mapping[str, str]]


def _console() -> Console:
    """Return a console that prints texts unchanged; in a pipe its tables are as wide as their contents."""
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _COLUMNS_OF_A_PIPE
    return console


def _table(*headings: str, right: Iterable[str] = (), title: str | None = None) -> Table:
    """Return an empty table with further columns ``right`` for figures; cells fold where there is little room."""
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for heading in right:
        table.add_column(heading, overflow="fold", justify="right")
    return table


def show_result(result: RunResult) -> None:
    """Print metrics, chosen and computed values, files, the run and the command that shows it."""
    from lines_pipeline.tracking.stores import ui_command

    console, shown = _console(), result.to_dict()
    for table in _metrics_tables(console, shown["metrics"], shown["units"]):
        console.print(table)
    for name, value in shown["chosen"].items():
        console.print(f"chosen   {name} = {value}")
    for name, value in result.computed.items():
        console.print(f"computed {name} = {computed_text(value)}")
    for file in shown["files"]:
        console.print(f"written  {file}")
    if result.cached:
        console.print(f"cached   {', '.join(shown['cached'])}")
    console.print(f"run      {shown['name']} {result.run_id or 'without a record'} ({result.seconds:.1f} s)")
    if result.run_id:
        console.print(f"compare  {result.secrets.hide(ui_command(result.tracking_uri))}")


def _metrics_tables(console: Console, metrics: _Metrics, units: _Units) -> Iterator[Table]:
    """Yield one table of all nodes with few members, and for each of the others one whose rows are its members."""
    members: dict[str, list[str]] = {}
    for step in metrics:
        members.setdefault(step.partition("[")[0], []).append(step)
    few = [step for steps in members.values() if len(steps) <= _MOST_COLUMNS for step in steps]
    if few:
        yield _metrics_table({step: metrics[step] for step in few}, units)
    for node, steps in members.items():
        if len(steps) > _MOST_COLUMNS:
            yield from _member_tables(console, node, {step: metrics[step] for step in steps}, units)


def _member_tables(console: Console, node: str, metrics: _Metrics, units: _Units) -> Iterator[Table]:
    """Yield tables with a row a member, of as many metrics each as the console has room for.

    Of metrics that have a mean or a worst task, single tasks are left out.
    """
    names = list(dict.fromkeys(name for figures in metrics.values() for name in _summarizing_metrics(figures)))
    while names:
        for count in range(len(names), 0, -1):
            table = _member_table(node, metrics, units, names[:count])
            if _fits(console, table):
                break
        yield table
        names = names[count:]


def _fits(console: Console, table: Table) -> bool:
    """Return whether the console has room for a table without folding its cells."""
    boundless = console.options.update(width=_BOUNDLESS)
    return Measurement.get(console, boundless, table).maximum <= console.width


def _member_table(node: str, metrics: _Metrics, units: _Units, names: Sequence[str]) -> Table:
    table = _table(node, right=names, title=f"metrics of {node}")
    for step, figures in metrics.items():
        key = step.removeprefix(node)[1:-1]
        table.add_row(key, *(_metric_cell(name, figures, units[step]) for name in names))
    return table


def _summarizing_metrics(figures: Mapping[str, float]) -> list[str]:
    """Return the metrics of a node that a table has room for, without the tasks of those that have a mean or worst."""

    def is_summed_up(name: str) -> bool:
        metric, slash, _ = name.partition("/")
        return bool(slash) and not {f"mean_{metric}", f"worst_{metric}"}.isdisjoint(figures)

    return [name for name in _shown_metrics(figures) if not is_summed_up(name)]


def _metrics_table(metrics: _Metrics, units: _Units) -> Table:
    """Return a table of means, then of tasks by what each suite declares first, with intervals beside the figures."""
    table = _table("metric", right=metrics, title="metrics")
    shown = {node: _shown_metrics(figures) for node, figures in metrics.items()}
    names = list(dict.fromkeys(name for names_shown in shown.values() for name in names_shown))
    for name in sorted(names, key=lambda name: "/" in name):
        table.add_row(name, *(_metric_cell(name, metrics[node], units[node]) for node in metrics))
    return table


def _shown_metrics(figures: Mapping[str, float]) -> list[str]:
    """Return the metrics of a node that a table has room for: others are in ``--json`` and in the record of the run."""
    first = next(iter(figures), "").partition("/")[0]
    ends = ("/low", "/high")
    return [
        name for name in figures if not name.endswith(ends) and ("/" not in name or name.partition("/")[0] == first)
    ]


def _metric_cell(name: str, figures: Mapping[str, float], units: Mapping[str, str]) -> str:
    if name not in figures:
        return ""
    unit = units.get(name, "")
    low, high = figures.get(f"{name}/low"), figures.get(f"{name}/high")
    if low is None or high is None:
        return figure_text(figures[name], unit)
    return f"{figure_text(figures[name], unit)} ({interval_text(low, high, unit)})"


def show_ops(ops: Sequence[Mapping[str, Any]], *, detailed: bool) -> None:
    """Print the catalogue, or one op in full."""
    console = _console()
    if not detailed:
        added = any(op["plugin"] for op in ops)
        table = _table("op", "formula", "gives", *(["from"] if added else []))
        for op in ops:
            table.add_row(op["name"], op["formula"], op["gives"], *([op["plugin"]] if added else []))
        console.print(table)
        return
    for op in ops:
        console.print(f"{op['name']}: {op['summary']}\n\n  formula  {op['formula']}\n  source   {op['source']}")
        if op["plugin"]:
            console.print(f"  from     {op['plugin']}")
        for name, port in op["inputs"].items():
            many = ", one or more" if port["many"] else ""
            console.print(f"  input    {name}: {port['type']}{many}{', optional' if port['optional'] else ''}")
        for param in op["params"]:
            default = "required" if param["required"] else f"default {json.dumps(param['default'], default=str)}"
            console.print(f"  param    {param['name']} ({default}): {param['description']}")


def show_checkpoint(inspected: Mapping[str, Any]) -> None:
    """Print what ``inspect`` found."""
    console = _console()
    for note in inspected["notes"]:
        console.print(f"note: {printable_message(note)}")
    for name in ("uri", "digest", "parameters", "bytes", "dtypes", "family", "aliases", "metadata"):
        if name in inspected:
            console.print(printable_message(f"{name:11}{inspected[name]}"))
    _show_layers(console, inspected)
    table = _table("tensor", "dtype", "shape", "block", "L2 norm")
    for row in inspected["tensors"]:
        norm = f"{row['norm']:.4g}" if "norm" in row else ""
        table.add_row(printable(row["name"]), row["dtype"], str(row["shape"]), printable(row["block"]), norm)
    console.print(table)
    for name, why in inspected["unreadable"].items():
        console.print(f"cannot be read: tensor '{printable(name)}' {why}")


def _show_layers(console: Console, inspected: Mapping[str, Any]) -> None:
    """Print towers with depth and share, then what is in no tower, or why there is no layer map."""
    if "problem" in inspected:
        console.print(f"{'layers':11}{printable(inspected['problem'])}")
    for tower, depth in inspected["depths"].items():
        share, path = inspected["shares"][tower], inspected["paths"][tower]
        console.print(printable(f"{'tower':11}{tower}: {depth} blocks, {share:.1%} of the parameters, {path}"))
    for stack in inspected.get("in_no_tower", ()):
        console.print(printable(f"{'in no tower':11} {stack['stack']}: {stack['share']:.1%}, {stack['reason']}"))


def show_zoo(entries: Sequence[Mapping[str, Any]]) -> None:
    """Print the zoo's checkpoints."""
    for entry in entries:
        _console().print(f"{entry['uri']:52}{'built' if entry['built'] else 'not built yet'}")


def show_cache(action: str, report: CacheReport) -> None:
    """Print entries of the cache, or what was done with them."""
    console, table = _console(), _table("kind", "key", "MB", "last used")
    for row in report.to_dict()["entries"]:
        table.add_row(row["kind"], row["key"][:16], f"{row['bytes'] / 1e6:,.3f}", row["used"])
    if report.entries:
        console.print(table)
    count, freed = len(report.entries), sum(entry.nbytes for entry in report.entries)
    outcomes = {
        "list": f"{count} entries",
        "prune": f"removed {count} entries, {freed / 1e6:,.1f} MB",
        "verify": f"checked {report.checked} entries, removed {count} damaged ones",
    }
    sizes = f"{report.nbytes / 1e6:,.1f} MB of {report.limit / 1e6:,.0f} MB"
    console.print(f"{outcomes[action]}; {report.folder} has {sizes}")


def show_sync(report: SyncReport) -> None:
    """Print records that were sent, and those that were not."""
    console = _console()
    for sent in report.sent:
        console.print(f"sent     {sent.name} {sent.run_id} ({sent.status}) to {sent.store}")
    for path in report.running:
        console.print(f"running  {path}: its run goes on")
    if not (report.sent or report.running or report.troubles):
        console.print("no records wait to be sent")


def show_comparison(comparison: Comparison) -> None:
    """Print runs side by side."""
    table = _table(
        "", *(f"{name}\n{run_id[:8]}" for name, run_id in zip(comparison.names, comparison.run_ids, strict=True))
    )
    for row in comparison.rows:
        values = ("" if value is None else str(value)[:40] for value in row.values)
        table.add_row(row.name, *values, style="bold" if row.differs else "dim")
    _console().print(table)
