"""Metadata of assets in the Dagster UI: row counts, column schemas, numbers, links, tables and plots."""

import base64
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq

from lvm_pipeline.tables import table_of

ROW_COUNT = "dagster/row_count"
COLUMN_SCHEMA = "dagster/column_schema"
URI = "dagster/uri"


def parquet_metadata(path: Path, meanings: Mapping[str, str]) -> dict[str, Any]:
    """Return row count, columns with their descriptions, size and path of a Parquet file."""
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
    """Return a Parquet schema as a Dagster table schema, with a description of each column."""
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
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def picture(svg: str, *, title: str, page: str) -> dg.MarkdownMetadataValue:
    """Return an inline image of an SVG, with the style sheet of the HTML page it comes from."""
    style = re.search("<style>.*?</style>", page, re.DOTALL)
    alone = svg.replace(">", f">{style.group() if style else ''}", 1)
    return dg.MetadataValue.md(f"![{title}](data:image/svg+xml;base64,{base64.b64encode(alone.encode()).decode()})")


def link(url: str | None) -> dict[str, dg.MetadataValue]:
    """Return the link to an MLflow run; empty if there is none."""
    return {} if url is None else {"mlflow_run": dg.MetadataValue.url(url)}


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(table_of(rows).markdown())


def markdown_list(sentences: Sequence[str]) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md("\n".join(f"- {sentence}" for sentence in sentences) or "(none)")
