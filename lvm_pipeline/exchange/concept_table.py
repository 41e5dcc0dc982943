"""Write an imported concept table.

Shapes: n = rows of a piece, D = vector width.
"""

from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lvm_pipeline.concepts.schema import ConceptsMetadata, concepts_schema
from lvm_pipeline.concepts.store import ConceptsFingerprint, ConceptsWriter, explain_full_disk
from lvm_pipeline.errors import LvmError
from lvm_pipeline.files import staged_file
from lvm_pipeline.source.schema import Tmd


def write_concept_table(
    path: Path, pieces: Generator[dict[str, Any]], *, vector_dim: int, **described: Any
) -> ConceptsMetadata:
    """Write a concept table that comes in pieces; it appears at `path` whole or not at all.

    Pieces have `cpe_id`, `article_id`, `position`, `concept_text`, `tmd` and `vector` (n, D) of some rows; `described`
    are fields of `ConceptsMetadata` that do not follow from the rows.

    Raises:
        LvmError: If the disk is full or a text cannot be stored.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fingerprint, indices, num_rows = ConceptsFingerprint(), {}, 0
    with (
        closing(pieces),
        explain_full_disk(path.parent),
        staged_file(path) as staged,
        ConceptsWriter(staged, vector_dim=vector_dim) as writer,
    ):
        for piece in pieces:
            try:
                writer.write(_table(piece, first_row=num_rows, indices=indices, schema=concepts_schema(vector_dim)))
            except UnicodeEncodeError as error:
                raise LvmError(f"A text cannot be stored ({error}); correct the texts of the file.") from None
            fingerprint.update(piece["cpe_id"], piece["article_id"], piece["vector"])
            num_rows += len(piece["vector"])
        metadata = ConceptsMetadata(
            fingerprint=fingerprint.hexdigest(),
            vector_dim=vector_dim,
            num_concepts=num_rows,
            num_articles=len(indices),
            num_source_rows=num_rows,
            duplicates_policy="fail",
            **described,
        )
        return writer.finish(metadata)


def _table(piece: dict[str, Any], *, first_row: int, indices: dict[str, int], schema: pa.Schema) -> pa.Table:
    """Complete the columns of a piece; `indices` numbers the articles and grows."""
    vectors = np.ascontiguousarray(piece["vector"])
    columns = {
        **{name: piece[name] for name in ("cpe_id", "article_id", "concept_text")},
        "row": np.arange(first_row, first_row + len(vectors)),
        "article_index": [indices.setdefault(article, len(indices)) for article in piece["article_id"]],
        "position": piece["position"].astype(np.int32),
        **{name: [getattr(tmd, name, None) for tmd in piece["tmd"]] for name in Tmd._fields},
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=schema.field("vector").type),
    }
    empty = {name: pa.nulls(len(vectors), schema.field(name).type) for name in schema.names}
    return pa.table({**empty, **columns}, schema=schema)
