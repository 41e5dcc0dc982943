"""The encoder of a space: recorded on this machine, or named by the user and then compared with the concepts."""

from typing import TYPE_CHECKING

import numpy as np

from lvm_pipeline.concepts.store import memory_mapped_vectors, read_columns
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings

if TYPE_CHECKING:
    from lvm_pipeline.source.encoders.encoder import Encoder

NUM_COMPARED = 8
SAME_SPACE = 0.98  # mean cosine of re-encoded concepts to their vectors; rounding and truncation cost a little


def space_encoder(settings: Settings, space_id: str, *, name: str | None = None) -> "Encoder | None":
    """Return the encoder of a space; None if no name is given and none is recorded.

    A named encoder, a sentence-transformers model or its folder, must reproduce the vectors of the promoted concepts.

    Raises:
        LvmError: If the named encoder cannot be loaded, or makes other vectors.
    """
    from lvm_pipeline.source.encoders.registry import encoder_named, encoder_of_space

    if name is None:
        return encoder_of_space(space_id, encoders_dir=settings.encoders_dir)
    encoder = encoder_named(name, encoders_dir=settings.encoders_dir)
    _refuse_other_vectors(settings, encoder, name)
    return encoder


def _refuse_other_vectors(settings: Settings, encoder: "Encoder", name: str) -> None:
    from lvm_pipeline.source.encoders.encoder import unit_length

    texts = read_columns(settings.concepts_path, ["concept_text"])["concept_text"]
    vectors = memory_mapped_vectors(settings.concepts_path, settings.vectors_dir)
    rows = np.unique(np.linspace(0, len(texts) - 1, NUM_COMPARED).astype(int))
    encoded = np.asarray(encoder.encode([text or "" for text in texts.take(rows).to_pylist()]), np.float32)
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
