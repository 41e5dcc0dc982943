"""TMD codes for concepts of the source table that have none."""

from typing import TYPE_CHECKING

import numpy as np

from lvm_pipeline.adapters import databases
from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.concepts.store import memory_mapped_vectors, read_columns
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings

if TYPE_CHECKING:
    from lvm_pipeline.source.tmd_labels import TmdAssignment

CODES = ("domain", "task", "modifier")


def assign_tmd(settings: Settings) -> "TmdAssignment":
    """Give TMD codes to the concepts that have none, in the source table; those that have codes keep them.

    Reads the promoted concepts and their vectors. Extract the concepts again afterwards, so that they have the codes.

    Raises:
        LvmError: If there are no concepts, the encoder of their space is not on this machine, or the table cannot be
            written.
    """
    from lvm_pipeline.adapters.postgres_writer import PostgresWriter
    from lvm_pipeline.source import tmd_labels
    from lvm_pipeline.source.encoders.registry import encoder_of_space

    concepts = read_concepts_metadata(settings.concepts_path)
    encoder = encoder_of_space(concepts.space_id, encoders_dir=settings.encoders_dir)
    if encoder is None:
        raise LvmError(
            f"The encoder of the space {concepts.space_id} is not on this machine, so label descriptions cannot be "
            f"encoded; put it into {settings.encoders_dir}, with the extra `encoders` installed."
        )
    table = read_columns(settings.concepts_path, ["cpe_id", *CODES])
    known = np.stack([np.nan_to_num(table[name].to_numpy(), nan=0) for name in CODES])
    rows = np.flatnonzero((known == 0).all(axis=0))
    vectors = memory_mapped_vectors(settings.concepts_path, settings.vectors_dir)
    codes = tmd_labels.nearest_codes(np.asarray(vectors[rows]), encoder)
    cpe_ids = np.asarray(table["cpe_id"].to_pylist(), dtype=object)[rows]
    writer = PostgresWriter(databases.source_url(settings), entry_table=settings.entry_table)
    assignment = tmd_labels.TmdAssignment(
        dataset_source=concepts.dataset_source,
        space_id=concepts.space_id,
        method=tmd_labels.METHOD,
        labels=tmd_labels.labels_hash(),
        num_concepts=concepts.num_concepts,
        num_without=len(rows),
        num_assigned=writer.write_codes(zip(cpe_ids, codes.tolist(), strict=True)),
    )
    if assignment.num_assigned:
        tmd_labels.write_assignment(settings.data_dir, assignment)
    return assignment
