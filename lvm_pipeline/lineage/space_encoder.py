"""The encoder of a space: recorded on this machine, or named by the user and then compared with the concepts."""

from typing import TYPE_CHECKING

import numpy as np

from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.concepts.store import memory_mapped_vectors, read_texts
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings

if TYPE_CHECKING:
    from lvm_pipeline.source.encoders.encoder import Encoder

NUM_COMPARED = 8
SAME_SPACE = 0.98  # mean cosine of re-encoded concepts to their vectors; rounding and truncation cost a little


def space_encoder(settings: Settings, space_id: str, *, name: str | None = None) -> "Encoder | None":
    """Return the encoder of a space; None if none is recorded and none is named.

    It is named by `name`, the setting `encoder`, or a model folder in the folder of encoders with the name of the
    space. A named encoder must reproduce the vectors of the promoted concepts; it is then recorded. Where these are of
    another space, nothing shows that it is the right one, and it is not used.

    Raises:
        LvmError: If the named encoder cannot be loaded, or makes other vectors.
    """
    from lvm_pipeline.source.encoders.registry import encoder_named, encoder_of_space, remember_encoder, renamed
    from lvm_pipeline.source.encoders.sentence_transformer import SentenceTransformerEncoder

    recorded = encoder_of_space(space_id, encoders_dir=settings.encoders_dir) if name is None else None
    name = name or settings.encoder or _own_folder(settings, space_id)
    if recorded is not None or name is None or not settings.concepts_path.is_file():
        return recorded
    if read_concepts_metadata(settings.concepts_path).space_id != space_id:
        return None
    encoder = encoder_named(name, encoders_dir=settings.encoders_dir)
    _refuse_other_vectors(settings, encoder, name)
    if isinstance(encoder, SentenceTransformerEncoder) and encoder.space_id != space_id:
        found, encoder = encoder.space_id, renamed(encoder, space_id)
        remember_encoder(encoder, encoders_dir=settings.encoders_dir, found_space=found)
    return encoder


def _own_folder(settings: Settings, space_id: str) -> str | None:
    """Return the folder of a model that someone put into the folder of encoders under the name of the space."""
    folder = settings.encoders_dir / space_id
    return str(folder) if (folder / "modules.json").is_file() else None


def _refuse_other_vectors(settings: Settings, encoder: "Encoder", name: str) -> None:
    from lvm_pipeline.source.encoders.encoder import unit_length

    vectors = memory_mapped_vectors(settings.concepts_path, settings.vectors_dir)
    rows = np.unique(np.linspace(0, len(vectors) - 1, NUM_COMPARED).astype(int))
    encoded = np.asarray(encoder.encode(read_texts(settings.concepts_path, rows)), np.float32)
    if encoded.shape[1] != vectors.shape[1]:
        raise LvmError(
            f"The encoder {name} makes vectors of width {encoded.shape[1]} and the concepts' have {vectors.shape[1]}; "
            "name the encoder that made them."
        )
    cosine = float(np.einsum("nd,nd->n", unit_length(encoded), unit_length(vectors[rows])).mean())
    if cosine < SAME_SPACE:
        raise LvmError(
            f"The encoder {name} makes other vectors than the concepts have (mean cosine {cosine:.2f} on {len(rows)} "
            "concepts); name the encoder that made them."
        )
