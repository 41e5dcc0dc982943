"""Text decoders: trained on the promoted data, and loaded."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from lvm_pipeline import files
from lvm_pipeline.concepts.content_kinds import TEXTS
from lvm_pipeline.concepts.store import read_texts
from lvm_pipeline.errors import LvmError
from lvm_pipeline.lineage.models import promoted_data
from lvm_pipeline.lineage.space_encoder import space_encoder
from lvm_pipeline.settings import Settings
from lvm_pipeline.source.values import parse_json

if TYPE_CHECKING:
    from lvm_pipeline.decoding._contract import Decoder
    from lvm_pipeline.decoding.lm import LanguageModel, LmOptions
    from lvm_pipeline.decoding.prefix import PrefixDecoder, PrefixInfo
    from lvm_pipeline.decoding.prefix_training import OnStep, PrefixOptions, TrainedPrefix
    from lvm_pipeline.decoding.search import Search
    from lvm_pipeline.evaluation.text_scores import TextRequest
    from lvm_pipeline.source.encoders.encoder import Encoder
    from lvm_pipeline.training.data import TrainingData

Kind = Literal["prefix", "lm"]
PREFIX, LM = KINDS = get_args(Kind)
CODE = {PREFIX: "lvm_pipeline.decoding.prefix_training", LM: "lvm_pipeline.decoding.lm"}  # modules that train them


@dataclass(frozen=True, kw_only=True)
class TextDecoder:
    """A trained text decoder: its folder, its record, and whether it was trained now."""

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
    kind: Kind = PREFIX,
    options: "PrefixOptions | LmOptions | None" = None,
    language_model: str | None = None,
    progress: "OnStep | None" = None,
    again: bool = False,
) -> TextDecoder:
    """Train a text decoder on the train articles of the promoted data.

    A decoder that was trained before with the same data, code and options is left as it is, except with `again`.
    Settings give the defaults of the options, and the language model of the kind `lm`.

    Raises:
        LvmError: If an option cannot be used, there are too few concepts, there is no language model, or another
            process trains the decoder.
    """
    from lvm_pipeline.decoding.prefix import read_prefix_info, save_prefix_decoder
    from lvm_pipeline.training.provenance import code_version

    options = _checked(settings, kind, options)
    folder = settings.decoders_dir / kind
    lock = folder.with_name(f".{folder.name}.lock")
    with files.only_one(lock, "Another process is training the text decoder now; wait for it."):
        data = promoted_data(settings)
        version = code_version(CODE[kind])
        made_with = {
            "fingerprints": data.fingerprints,
            "content_fingerprint": data.concepts.content({TEXTS}),
            "code_version": version,
            "options": asdict(options),
        }
        opened = _language_model(settings, language_model) if kind == LM else None
        found = {**made_with, "language_model": None if opened is None else opened.record}
        known = None if again or not folder.is_dir() else _info_or_none(folder)
        if known is not None and {name: getattr(known, name) for name in found} == found:
            return TextDecoder(path=folder, info=known, was_trained=False)
        rows = data.train_rows()
        texts = read_texts(settings.concepts_path, rows)
        trained = _trained(settings, np.asarray(data.vectors[rows]), texts, options, opened, progress)
        save_prefix_decoder(folder, trained, space_id=data.concepts.space_id, num_texts=len(texts), **made_with)
        return TextDecoder(path=folder, info=read_prefix_info(folder), was_trained=True)


def _checked(
    settings: Settings, kind: Kind, options: "PrefixOptions | LmOptions | None"
) -> "PrefixOptions | LmOptions":
    from lvm_pipeline.decoding._options import checked
    from lvm_pipeline.decoding.lm import LmOptions
    from lvm_pipeline.decoding.prefix_training import PrefixOptions

    if isinstance(options, LmOptions) or (options is None and kind == LM):
        return checked(options or LmOptions(seed=settings.seed))
    return checked(options or PrefixOptions(steps=settings.decoder_steps, seed=settings.seed))


def _language_model(settings: Settings, name: str | None) -> "LanguageModel":
    from lvm_pipeline.decoding.lm import open_language_model

    return open_language_model(name or settings.decoder_language_model)


def _trained(
    settings: Settings,
    vectors: np.ndarray,
    texts: list[str],
    options: "PrefixOptions | LmOptions",
    language_model: "LanguageModel | None",
    progress: "OnStep | None",
) -> "TrainedPrefix":
    from lvm_pipeline.decoding.lm import LmOptions, train_lm
    from lvm_pipeline.decoding.prefix_training import train_prefix
    from lvm_pipeline.training.settle import find_device

    device = find_device(settings.device)
    if isinstance(options, LmOptions):
        assert language_model is not None
        return train_lm(
            vectors,
            texts,
            options,
            language_model=language_model,
            device=device,
            num_threads=settings.num_threads,
            progress=progress,
        )
    return train_prefix(vectors, texts, options, device=device, num_threads=settings.num_threads, progress=progress)


def decoders_at_hand(settings: Settings, data: "TrainingData", *, encoder: "Encoder | None" = None) -> DecodersAtHand:
    """Load every decoder that was trained on the present data; the nearest concept needs none of this.

    With the encoder of the space, decoders that write texts search for the closest as the settings say. The decoder
    `lm` is missing only where one was trained, and vec2text only where it decodes this space.
    """
    kinds = [kind for kind in KINDS if kind == PREFIX or (settings.decoders_dir / kind).is_dir()]
    found = [_trained_at_hand(settings, data, kind, encoder=encoder) for kind in kinds]
    found.append(_vec2text_at_hand(settings, data.concepts.space_id))
    return DecodersAtHand(
        decoders=tuple(decoder for each in found for decoder in each.decoders),
        missing={name: reason for each in found for name, reason in each.missing.items()},
    )


def _vec2text_at_hand(settings: Settings, space_id: str) -> DecodersAtHand:
    """Return vec2text, or why it is missing; nothing for spaces that it does not decode."""
    from lvm_pipeline.decoding.vec2text import is_decoded, open_vec2text

    if not is_decoded(space_id):
        return DecodersAtHand(decoders=(), missing={})
    try:
        return DecodersAtHand(decoders=(open_vec2text(settings.vec2text_dir, space_id=space_id),), missing={})
    except LvmError as error:
        return DecodersAtHand(decoders=(), missing={"vec2text": str(error)})


def _trained_at_hand(
    settings: Settings, data: "TrainingData", kind: Kind, *, encoder: "Encoder | None"
) -> DecodersAtHand:
    from lvm_pipeline.decoding.prefix import trained_on_other_data

    try:
        decoder = load_text_decoder(settings, kind, space_id=data.concepts.space_id)
    except LvmError as error:
        return DecodersAtHand(decoders=(), missing={kind: str(error)})
    info = decoder.info
    if info.fingerprints != data.fingerprints or info.content_fingerprint != data.concepts.content({TEXTS}):
        return DecodersAtHand(decoders=(), missing={kind: trained_on_other_data(settings.decoders_dir / kind)})
    return DecodersAtHand(decoders=(decoder.searching(search_of(settings), encoder),), missing={})


def search_of(settings: Settings, **given: float | None) -> "Search":
    """Return how text decoders search for texts: as given, or as the settings say where a value is None."""
    from lvm_pipeline.decoding.search import Search

    values = {
        "beam": settings.text_beam,
        "candidates": settings.text_candidates,
        "temperature": settings.text_temperature,
        "spread": settings.text_spread,
        "corrections": settings.text_corrections,
    }
    return Search(**{**values, **{name: value for name, value in given.items() if value is not None}})


def searching(settings: Settings, decoder: "PrefixDecoder", encoder: "Encoder | None") -> "PrefixDecoder":
    """Return a decoder that searches as the settings say; an encoder of another space chooses no text."""
    is_own = encoder is not None and encoder.space_id == decoder.space_id
    return decoder.searching(search_of(settings), encoder if is_own else None)


def text_request(settings: Settings) -> "TextRequest":
    """Return what a report decodes: as many predictions as the settings say, with every available decoder."""
    from lvm_pipeline.evaluation.text_scores import TextRequest

    if not settings.text_targets:
        return TextRequest(num_targets=0)
    data = promoted_data(settings)
    encoder = space_encoder(settings, data.concepts.space_id)
    found = decoders_at_hand(settings, data, encoder=encoder)
    return TextRequest(
        num_targets=settings.text_targets,
        decoders=found.decoders,
        missing=found.missing,
        second_encoder=_second_encoder(settings, data.concepts.space_id),
    )


def _second_encoder(settings: Settings, space_id: str) -> "Encoder | None":
    """Return the second encoder that the settings name, if any. Raises LvmError if it is that of the vectors."""
    from lvm_pipeline.source.encoders.registry import encoder_named

    if settings.text_second_encoder is None:
        return None
    found = encoder_named(settings.text_second_encoder, encoders_dir=settings.encoders_dir)
    if found.space_id == space_id:
        raise LvmError(
            f"LVM_TEXT_SECOND_ENCODER names {space_id}, the encoder of the vectors; name another one, or none."
        )
    return found


def load_text_decoder(settings: Settings, kind: Kind = PREFIX, *, space_id: str | None = None) -> "PrefixDecoder":
    """Load a trained decoder. Raises LvmError if it is not trained, or is of another space."""
    from lvm_pipeline.decoding.prefix import load_prefix_decoder

    return load_prefix_decoder(settings.decoders_dir / kind, space_id=space_id)


def decode_lines(
    settings: Settings, lines: Iterable[bytes], *, kind: Kind = PREFIX, search: "Search | None" = None
) -> Iterator[dict[str, Any]]:
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
    decoder, search = load_text_decoder(settings, kind), search or search_of(settings)
    encoder = space_encoder(settings, decoder.space_id)
    decoder = decoder.searching(search, _needed(encoder, decoder.space_id) if search.needs_encoder else encoder)
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
        record = parse_json(line)
    except ValueError:
        return line
    if isinstance(record, dict) and "prediction" in record and "vector" not in record:
        return json.dumps({**record, "vector": record["prediction"]}).encode()
    return line


def _needed(encoder: "Encoder | None", space_id: str) -> "Encoder":
    if encoder is None:
        raise LvmError(
            f"The encoder of space {space_id} is not on this machine, so texts cannot be encoded; name it with "
            "LVM_ENCODER, or give vectors and ask for one candidate and no corrections."
        )
    return encoder


def _info_or_none(folder: Path) -> "PrefixInfo | None":
    from lvm_pipeline.decoding.prefix import read_prefix_info

    try:
        return read_prefix_info(folder)
    except LvmError:
        return None
