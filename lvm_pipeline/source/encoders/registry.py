"""Encoders by name and by space id."""

import json
from pathlib import Path

from lvm_pipeline.errors import LvmError
from lvm_pipeline.files import write_json
from lvm_pipeline.source.encoders import lsa
from lvm_pipeline.source.encoders.encoder import Encoder, encoder_folder
from lvm_pipeline.source.encoders.sentence_transformer import SentenceTransformerEncoder, load_sentence_transformer

PLACE_FILE = "place.json"


def is_fitted_by_ingest(name: str) -> bool:
    """Say whether an encoder is made from the text that it is to encode, and not loaded."""
    return name == lsa.NAME


def encoder_named(name: str, *, encoders_dir: Path) -> Encoder:
    """Return the encoder of a name: `lsa-768@...` as fitted before, a sentence-transformers model, or a folder of one.

    Raises:
        LvmError: If it cannot be had here; says what to install or where to put it.
    """
    if is_fitted_by_ingest(name):
        raise LvmError(f"{name} is fitted on the text it encodes; name a fitted one, such as {name}@0123456789ab.")
    if name.startswith(f"{lsa.NAME}@"):
        return lsa.load_lsa(encoder_folder(encoders_dir, name))
    return load_sentence_transformer(name, encoders_dir=encoders_dir)


def remember_encoder(encoder: Encoder, *, encoders_dir: Path) -> None:
    """Keep an encoder so that `encoder_of_space` finds it: a fitted one whole, a model by where its folder is."""
    folder = encoder_folder(encoders_dir, encoder.space_id)
    if isinstance(encoder, lsa.LsaEncoder) and not folder.exists():
        encoder.save(folder)
    if isinstance(encoder, SentenceTransformerEncoder):
        write_json(folder / PLACE_FILE, {"space_id": encoder.space_id, "folder": str(encoder.folder)})


def encoder_of_space(space_id: str, *, encoders_dir: Path) -> Encoder | None:
    """Return the encoder that made a space's vectors where it is at hand on this machine; downloads nothing."""
    folder = encoder_folder(encoders_dir, space_id)
    try:
        if space_id.startswith(f"{lsa.NAME}@"):
            encoder: Encoder = lsa.load_lsa(folder)
        else:
            encoder = _model_of_space(space_id, folder)
    except (LvmError, OSError, ValueError, KeyError):
        return None
    return encoder if encoder.space_id == space_id else None


def _model_of_space(space_id: str, folder: Path) -> Encoder:
    place = json.loads((folder / PLACE_FILE).read_text(encoding="utf-8"))
    model_dir = Path(place["folder"])
    name = space_id.partition("/")[0]
    encoder = load_sentence_transformer(str(model_dir), encoders_dir=folder, may_download=False)
    if encoder.space_id.partition("/")[2] != space_id.partition("/")[2]:
        raise ValueError(f"{model_dir} no longer holds {name}")
    return SentenceTransformerEncoder(
        space_id=space_id, vector_dim=encoder.vector_dim, folder=encoder.folder, model=encoder.model
    )
