"""TMD codes for concepts of the source table that have none."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from lvm_pipeline.adapters import databases
from lvm_pipeline.concepts.facts import CODES, NO_CODE, lacks_codes
from lvm_pipeline.concepts.schema import ConceptsMetadata, read_concepts_metadata
from lvm_pipeline.concepts.store import memory_mapped_vectors, read_columns, read_texts
from lvm_pipeline.errors import LvmError
from lvm_pipeline.lineage.space_encoder import space_encoder
from lvm_pipeline.settings import Settings

if TYPE_CHECKING:
    from lvm_pipeline.chat import ChatModel
    from lvm_pipeline.source.tmd_chat import OnConcept
    from lvm_pipeline.source.tmd_labels import TmdAssignment

NPZ_SOURCE = "npz:"  # of imported concepts
JOURNAL = "tmd_chat.jsonl"  # beside the concept table

Method = Literal["labels", "chat"]


def assign_tmd(
    settings: Settings,
    *,
    method: Method = "labels",
    chat: "ChatModel | None" = None,
    progress: "OnConcept | None" = None,
) -> "TmdAssignment":
    """Give TMD codes to the concepts that lack some, in the source table; they keep those that they have.

    Reads the promoted concepts and their vectors. Extract the concepts again afterwards, so that they have the codes.

    Args:
        settings: Where the concepts and the source table are, and which language model is asked.
        method: `labels` for the nearest label description, `chat` for a language model that reads the text. With
            `chat`, an interrupted call is resumed by the next, and concepts that got no valid codes keep none.
        chat: The language model; None: that of the settings.
        progress: Called after every concept that a language model was asked about.

    Raises:
        LvmError: If there are no concepts, encoder or language model are missing, or the table cannot be written. If
            no concept lacks codes, neither they nor the table are needed.
    """
    from lvm_pipeline.source import tmd_labels

    concepts = read_concepts_metadata(settings.concepts_path)
    table = read_columns(settings.concepts_path, ["cpe_id", *CODES])
    codes = np.stack([table[name].fill_null(NO_CODE).to_numpy() for name in CODES], axis=1)
    rows = np.flatnonzero(lacks_codes(codes))
    if not len(rows):
        return _assignment(concepts, method=method, labels=tmd_labels.labels_hash(), num_without=0)
    if concepts.source.startswith(NPZ_SOURCE):
        raise LvmError(
            f"The concepts were imported ({concepts.source}) and are in no source table that could keep TMD codes; add "
            "the codes to the file, or load the concepts with `lvm ingest`."
        )
    cpe_ids = np.asarray(table["cpe_id"].to_pylist(), dtype=object)[rows].tolist()
    if method == "chat":
        return _assigned_by_chat(settings, concepts, rows, cpe_ids, chat=chat, progress=progress)
    nearest = _nearest_codes(settings, concepts, rows)
    return _written(
        settings,
        concepts,
        zip(cpe_ids, nearest, strict=True),
        method=tmd_labels.METHOD,
        labels=tmd_labels.labels_hash(),
        num_without=len(rows),
    )


def _nearest_codes(settings: Settings, concepts: ConceptsMetadata, rows: np.ndarray) -> list[list[int]]:
    from lvm_pipeline.source import tmd_labels

    encoder = space_encoder(settings, concepts.space_id)
    if encoder is None:
        raise LvmError(
            f"The encoder of the space {concepts.space_id} is not on this machine, so label descriptions cannot be "
            f"encoded; name it with LVM_ENCODER, with the extra `encoders` installed."
        )
    vectors = memory_mapped_vectors(settings.concepts_path, settings.vectors_dir)
    return tmd_labels.nearest_codes(np.asarray(vectors[rows]), encoder).tolist()


def _assigned_by_chat(
    settings: Settings,
    concepts: ConceptsMetadata,
    rows: np.ndarray,
    cpe_ids: Sequence[str],
    *,
    chat: "ChatModel | None",
    progress: "OnConcept | None",
) -> "TmdAssignment":
    from lvm_pipeline.adapters.chat import open_chat
    from lvm_pipeline.source import tmd_chat

    chat = chat or open_chat(settings)
    chosen = tmd_chat.choose_codes(
        list(zip(cpe_ids, read_texts(settings.concepts_path, rows), strict=True)),
        chat,
        journal=settings.data_dir / JOURNAL,
        progress=progress,
    )
    return _written(
        settings,
        concepts,
        chosen.codes.items(),
        method=tmd_chat.METHOD.format(name=chat.name),
        labels=tmd_chat.prompt_hash(),
        num_without=len(rows),
        failures=chosen.failures,
    )


def _written(
    settings: Settings,
    concepts: ConceptsMetadata,
    codes: Iterable[tuple[str, Sequence[int]]],
    *,
    method: str,
    labels: str,
    num_without: int,
    failures: dict[str, int] | None = None,
) -> "TmdAssignment":
    """Write codes into the source table and keep where they come from."""
    from lvm_pipeline.adapters.postgres_writer import PostgresWriter
    from lvm_pipeline.source import tmd_labels

    earlier = tmd_labels.read_assignment(settings.concepts_path, concepts.dataset_source)
    writer = PostgresWriter(databases.source_url(settings), entry_table=settings.entry_table)
    assignment = _assignment(
        concepts,
        method=method,
        labels=labels,
        num_without=num_without,
        num_assigned=writer.write_codes(codes),
        failures=failures,
    )
    if assignment.num_assigned:
        tmd_labels.write_assignment(settings.data_dir, assignment, earlier=earlier)
    return assignment


def _assignment(
    concepts: ConceptsMetadata,
    *,
    method: str,
    labels: str,
    num_without: int,
    num_assigned: int = 0,
    failures: dict[str, int] | None = None,
) -> "TmdAssignment":
    from lvm_pipeline.source.tmd_labels import TmdAssignment

    return TmdAssignment(
        dataset_source=concepts.dataset_source,
        space_id=concepts.space_id,
        method=method,
        labels=labels,
        num_concepts=concepts.num_concepts,
        num_without=num_without,
        num_assigned=num_assigned,
        failures=failures or {},
    )
