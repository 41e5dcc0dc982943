"""What a product says of itself in the Dagster UI: rows, columns, numbers, links and pictures."""

import base64
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq

ROW_COUNT = "dagster/row_count"
COLUMN_SCHEMA = "dagster/column_schema"
URI = "dagster/uri"


def parquet_metadata(path: Path, meanings: Mapping[str, str]) -> dict[str, Any]:
    """Return rows, columns with their meanings, size and place of a Parquet file."""
    file = pq.ParquetFile(path)
    return {
        ROW_COUNT: file.metadata.num_rows,
        COLUMN_SCHEMA: table_schema(file.schema_arrow, meanings),
        "size_bytes": path.stat().st_size,
        "row_groups": file.metadata.num_row_groups,
        "path": dg.MetadataValue.path(path),
        URI: path.as_uri(),
    }


def table_schema(schema: pa.Schema, meanings: Mapping[str, str]) -> dg.TableSchema:
    """Return a Parquet schema as Dagster shows it, with what each column means."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=field.name,
                type=str(field.type),
                description=meanings[field.name],
                constraints=dg.TableColumnConstraints(nullable=field.nullable),
            )
            for field in schema
        ]
    )


def numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the numbers among some values: Dagster plots them over time."""
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def picture(svg: str, *, title: str, page: str) -> dg.MarkdownMetadataValue:
    """Return a drawing that the UI shows in place, with the style sheet of the HTML page that it belongs to."""
    style = re.search("<style>.*?</style>", page, re.DOTALL)
    alone = svg.replace(">", f">{style.group() if style else ''}", 1)
    return dg.MetadataValue.md(f"![{title}](data:image/svg+xml;base64,{base64.b64encode(alone.encode()).decode()})")


def link(url: str | None) -> dict[str, dg.MetadataValue]:
    """Return the link to an MLflow run, nothing where there is none."""
    return {} if url is None else {"mlflow_run": dg.MetadataValue.url(url)}


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> dg.MarkdownMetadataValue:
    """Return rows of equal keys as a table."""
    if not rows:
        return dg.MetadataValue.md("(nothing)")
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    lines += ["| " + " | ".join(_cell(value) for value in row.values()) + " |" for row in rows]
    return dg.MetadataValue.md("\n".join(lines))


def markdown_list(sentences: Sequence[str]) -> dg.MarkdownMetadataValue:
    """Return sentences as a list."""
    return dg.MetadataValue.md("\n".join(f"- {sentence}" for sentence in sentences) or "(nothing)")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return "" if value is None else str(value).replace("|", "\\|")
