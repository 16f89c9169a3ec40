"""Tables as files of comma-separated values."""

from __future__ import annotations

import csv
import io

from lines_pipeline.ops.metrics_table import Table, cell_text


def csv_text(table: Table) -> str:
    """Return a table as CSV (RFC 4180, lines end in a line feed): a header, then a line a row; no cell where none is.

    Figures have all the digits that tell them from others, items the spelling of the recipe.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([cell_text(row.get(column)) for column in table.columns] for row in table.rows)
    return text.getvalue()
