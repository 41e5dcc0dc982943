"""Encoders by name and by space id."""

import json
from dataclasses import replace
from pathlib import Path

from lvm_pipeline.errors import LvmError
from lvm_pipeline.files import write_json
from lvm_pipeline.source.encoders import lsa
from lvm_pipeline.source.encoders.encoder import Encoder, encoder_folder
from lvm_pipeline.source.encoders.sentence_transformer import (
    SentenceTransformerEncoder,
    bare_space,
    load_sentence_transformer,
)

MODEL_FOLDER_FILE = "place.json"


def is_fitted_by_ingest(name: str) -> bool:
    """Return whether an encoder is fitted on the text it encodes, instead of loaded."""
    return name == lsa.NAME


def encoder_named(name: str, *, encoders_dir: Path) -> Encoder:
    """Load an encoder: a fitted `lsa-768@...`, or a sentence-transformers model by name or folder.

    Raises:
        LvmError: If it is not available; says what to install or where to put it.
    """
    if is_fitted_by_ingest(name):
        raise LvmError(f"{name} is fitted on the text it encodes; name a fitted encoder, such as {name}@0123456789ab.")
    if name.startswith(f"{lsa.NAME}@"):
        return lsa.load_lsa(encoder_folder(encoders_dir, name))
    return load_sentence_transformer(name, encoders_dir=encoders_dir)


def remember_encoder(encoder: Encoder, *, encoders_dir: Path, found_space: str | None = None) -> None:
    """Register an encoder for `encoder_of_space`: save a fitted one, record the folder of a model.

    `found_space` is the space id read from the model's files, if the encoder is registered under another one.
    """
    folder = encoder_folder(encoders_dir, encoder.space_id)
    if isinstance(encoder, lsa.LsaEncoder) and not folder.exists():
        encoder.save(folder)
    if isinstance(encoder, SentenceTransformerEncoder):
        record = {"space_id": encoder.space_id, "folder": str(encoder.folder)}
        write_json(folder / MODEL_FOLDER_FILE, record if found_space is None else {**record, "found": found_space})


def encoder_of_space(space_id: str, *, encoders_dir: Path) -> Encoder | None:
    """Return the encoder of a space if it is available on this machine, without downloads."""
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
    record = json.loads((folder / MODEL_FOLDER_FILE).read_text(encoding="utf-8"))
    encoder = load_sentence_transformer(record["folder"], encoders_dir=folder, may_download=False)
    expected = record.get("found", space_id).partition("/")[2]
    found = encoder.space_id.partition("/")[2]
    if expected not in (found, bare_space(found)):  # earlier versions wrote the id without options
        raise ValueError(f"{record['folder']} no longer holds {space_id}")
    return renamed(encoder, space_id)


def renamed(encoder: SentenceTransformerEncoder, space_id: str) -> SentenceTransformerEncoder:
    """Return the encoder with another space id."""
    return replace(encoder, space_id=space_id)
