"""Text decoders: the prefix decoder is trained on the promoted data; every decoder at hand is found here."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from lvm_pipeline.concepts.store import read_columns
from lvm_pipeline.errors import LvmError
from lvm_pipeline.lineage.space_encoder import space_encoder
from lvm_pipeline.settings import Settings

if TYPE_CHECKING:
    from lvm_pipeline.decoding._contract import Decoder
    from lvm_pipeline.decoding.prefix import PrefixDecoder, PrefixInfo
    from lvm_pipeline.decoding.prefix_training import OnStep, PrefixOptions
    from lvm_pipeline.evaluation.text_scores import TextRequest
    from lvm_pipeline.source.encoders.encoder import Encoder
    from lvm_pipeline.training.data import TrainingData

PREFIX = "prefix"
CODE = "lvm_pipeline.decoding.prefix_training"  # what trains it


@dataclass(frozen=True, kw_only=True)
class TextDecoder:
    """A trained prefix decoder: its folder, its record, and whether it was trained now."""

    path: Path
    info: "PrefixInfo"
    was_trained: bool


@dataclass(frozen=True, kw_only=True)
class DecodersAtHand:
    """The trained decoders of a space, and the reason for each that is missing."""

    decoders: tuple["Decoder", ...]
    missing: Mapping[str, str]


def train_text_decoder(
    settings: Settings,
    *,
    options: "PrefixOptions | None" = None,
    progress: "OnStep | None" = None,
    again: bool = False,
) -> TextDecoder:
    """Train the prefix decoder on the train articles of the promoted data.

    A decoder that was trained before with the same data, code and options is left as it is, except with `again`.
    Settings give the defaults of the options.

    Raises:
        LvmError: If an option cannot be used, there are too few concepts, or another process trains the decoder.
    """
    from lvm_pipeline.decoding.prefix import read_prefix_info, save_prefix_decoder
    from lvm_pipeline.decoding.prefix_training import PrefixOptions, checked_options, train_prefix
    from lvm_pipeline.training.data import load_training_data
    from lvm_pipeline.training.provenance import code_version
    from lvm_pipeline.training.settle import find_device

    options = checked_options(options or PrefixOptions(steps=settings.decoder_steps, seed=settings.seed))
    folder = settings.decoders_dir / PREFIX
    with _locked(folder):
        data = load_training_data(settings.concepts_path, settings.sequences_path, settings.vectors_dir)
        made_with = {"fingerprints": data.fingerprints, "code_version": code_version(CODE), "options": asdict(options)}
        known = None if again or not folder.is_dir() else _info_or_none(folder)
        if known is not None and {name: getattr(known, name) for name in made_with} == made_with:
            return TextDecoder(path=folder, info=known, was_trained=False)
        rows = data.train_rows()
        texts = _texts(settings.concepts_path, rows)
        trained = train_prefix(
            np.asarray(data.vectors[rows]),
            texts,
            options,
            device=find_device(settings.device),
            num_threads=settings.num_threads,
            progress=progress,
        )
        save_prefix_decoder(folder, trained, space_id=data.concepts.space_id, num_texts=len(texts), **made_with)
        return TextDecoder(path=folder, info=read_prefix_info(folder), was_trained=True)


def decoders_at_hand(settings: Settings, data: "TrainingData", *, encoder: "Encoder | None" = None) -> DecodersAtHand:
    """Load every decoder that was trained on the present data; the nearest concept needs none of this.

    With the encoder of the space and `text_candidates` above 1, decoders that write several texts keep the closest.
    vec2text is among them if it is installed and decodes this space.
    """
    found = _prefix_at_hand(settings, data, encoder=encoder)
    vec2text = _vec2text_at_hand(settings, data.concepts.space_id)
    return DecodersAtHand(decoders=(*found.decoders, *vec2text.decoders), missing={**found.missing, **vec2text.missing})


def _vec2text_at_hand(settings: Settings, space_id: str) -> DecodersAtHand:
    """Return vec2text, or why it is missing; nothing for spaces that it does not decode."""
    from lvm_pipeline.decoding.vec2text import is_decoded, open_vec2text

    if not is_decoded(space_id):
        return DecodersAtHand(decoders=(), missing={})
    try:
        return DecodersAtHand(decoders=(open_vec2text(settings.vec2text_dir, space_id=space_id),), missing={})
    except LvmError as error:
        return DecodersAtHand(decoders=(), missing={"vec2text": str(error)})


def _prefix_at_hand(settings: Settings, data: "TrainingData", *, encoder: "Encoder | None") -> DecodersAtHand:
    try:
        prefix = load_text_decoder(settings, space_id=data.concepts.space_id)
    except LvmError as error:
        return DecodersAtHand(decoders=(), missing={PREFIX: str(error)})
    if prefix.info.fingerprints != data.fingerprints:
        reason = (
            f"The text decoder in {settings.decoders_dir / PREFIX} was trained on other data, perhaps on the articles "
            "that are scored; train it again with `lvm decoder train`."
        )
        return DecodersAtHand(decoders=(), missing={PREFIX: reason})
    if encoder is not None and settings.text_candidates > 1:
        prefix = prefix.best_of(settings.text_candidates, encoder)
    return DecodersAtHand(decoders=(prefix,), missing={})


def text_request(settings: Settings) -> "TextRequest":
    """Return what a report decodes: as many predictions as the settings say, with every decoder at hand."""
    from lvm_pipeline.evaluation.text_scores import TextRequest
    from lvm_pipeline.training.data import load_training_data

    if not settings.text_targets:
        return TextRequest(num_targets=0)
    data = load_training_data(settings.concepts_path, settings.sequences_path, settings.vectors_dir)
    encoder = space_encoder(settings, data.concepts.space_id)
    found = decoders_at_hand(settings, data, encoder=encoder)
    return TextRequest(num_targets=settings.text_targets, decoders=found.decoders, missing=found.missing)


def load_text_decoder(settings: Settings, *, space_id: str | None = None) -> "PrefixDecoder":
    """Load the prefix decoder. Raises LvmError if it is not trained, or is of another space."""
    from lvm_pipeline.decoding.prefix import load_prefix_decoder

    return load_prefix_decoder(settings.decoders_dir / PREFIX, space_id=space_id)


def decode_lines(settings: Settings, lines: Iterable[bytes], *, num_candidates: int) -> Iterator[dict[str, Any]]:
    """Decode the vectors of lines as they come, each to a record with the text and its round-trip cosine.

    A line is what `lvm predict` reads or prints: a vector, a text, which is encoded first, or a prediction.

    Raises:
        LvmError: If the decoder is not trained, or a line cannot be used; those before it were yielded.
    """
    import torch

    from lvm_pipeline.decoding._contract import refuse_other_space
    from lvm_pipeline.inference.reading import read_lines
    from lvm_pipeline.source.encoders.encoder import unit_length

    torch.set_num_threads(settings.num_threads)
    decoder: Decoder = load_text_decoder(settings)
    encoder = space_encoder(settings, decoder.space_id)
    if num_candidates > 1:
        decoder = load_text_decoder(settings).best_of(num_candidates, _needed(encoder, decoder.space_id))
    for concept in read_lines(map(_prediction_as_vector, lines)):
        refuse_other_space(decoder, concept.space_id or decoder.space_id)
        vector = concept.vector
        if vector is None:
            vector = _needed(encoder, decoder.space_id).encode([concept.text or ""])[0]
        (text,) = decoder.decode(vector[None])
        cosine = None
        if encoder is not None:
            cosine = round(float(encoder.encode([text])[0] @ unit_length(vector[None])[0]), 6)
        named = {} if concept.article_id is None else {"article_id": concept.article_id}
        yield {**named, "text": text, "round_trip_cosine": cosine}


def _prediction_as_vector(line: bytes) -> bytes:
    """Return a line that `lvm predict` printed as one that it reads; any other line as it is."""
    try:
        record = json.loads(line)
    except ValueError:
        return line
    if isinstance(record, dict) and "prediction" in record and "vector" not in record:
        return json.dumps({**record, "vector": record["prediction"]}).encode()
    return line


def _needed(encoder: "Encoder | None", space_id: str) -> "Encoder":
    if encoder is None:
        raise LvmError(
            f"The encoder of space {space_id} is not on this machine, so texts cannot be encoded; name it with "
            "LVM_ENCODER, or give vectors and ask for one candidate."
        )
    return encoder


def _texts(concepts_path: Path, rows: np.ndarray) -> list[str]:
    texts = read_columns(concepts_path, ["concept_text"])["concept_text"].take(rows).to_pylist()
    return [text or "" for text in texts]


def _info_or_none(folder: Path) -> "PrefixInfo | None":
    from lvm_pipeline.decoding.prefix import read_prefix_info

    try:
        return read_prefix_info(folder)
    except LvmError:
        return None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from training the same decoder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0):
            yield
    except Timeout:
        raise LvmError("Another process is training the text decoder now; wait for it.") from None
