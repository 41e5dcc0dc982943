"""Decoding in the loop: the prediction must also lead back to the true concept, not only lie near its vector.

Ways to decode:

    bank      the nearest concept: cross-entropy of the true next concept in a softmax over the bank of train concepts,
              of which every step draws a sample. It needs no trained text decoder.
    prefix    the trained text decoder, frozen (`lvm decoder train`): cross-entropy of the true text, token by token
              (SONAR-LLM, arXiv 2508.05305). With `reencode_weight` the decoded text is also encoded again and compared
              with the target.
    lm        the same with a frozen language model (`lvm decoder train --kind lm`); slow without a GPU.

The kind of decoder is an option of the trial, and the note of the strategy describes the decoder. After the decoder has
been trained again, the trial is trained again too, and a checkpoint made with the earlier decoder is not resumed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from lvm_pipeline.concepts.content_kinds import TEXTS
from lvm_pipeline.errors import LvmError
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import TrainingData
from lvm_pipeline.training.phases import AddedTerm
from lvm_pipeline.training.strategies._contract import Staging, Strategy, strategy_option
from lvm_pipeline.training.trial import Trial

if TYPE_CHECKING:
    from lvm_pipeline.decoding.prefix import PrefixDecoder, PrefixInfo
    from lvm_pipeline.source.encoders.encoder import Encoder
    from lvm_pipeline.training.terms import TermModule, TermSources

TERM, REENCODED = "decoded", "reencoded"
BANK = "bank"


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How the prediction is decoded in training."""

    decoder: Literal["bank", "prefix", "lm"] = strategy_option(
        "bank", "What decodes: the bank of train concepts, or a text decoder trained by `lvm decoder train --kind ...`."
    )
    decode_weight: Annotated[float, Field(gt=0)] = strategy_option(0.1, "Weight of the term beside the objective.")
    bank_sample: Annotated[int, Field(ge=2)] = strategy_option(
        4096, "Train concepts drawn from the bank at each step; all of them if there are fewer."
    )
    decode_temperature: Annotated[float, Field(gt=0)] = strategy_option(
        0.1, "Cosines to the bank are divided by this before the softmax."
    )
    decoded_targets: Annotated[int, Field(ge=1)] = strategy_option(16, "Targets per step that the text decoder scores.")
    reencode_weight: Annotated[float, Field(ge=0)] = strategy_option(
        0.0, "Weight of decoding to text, encoding it again and comparing with the target; 0 leaves it out."
    )


def stage(staging: Staging, config: TrainingConfig, data: TrainingData, options: DecodeOptions) -> Staging:
    """Add the terms to every phase.

    Raises:
        LvmError: If the train split has too few concepts for a bank, or the text decoder or encoder is missing.
    """
    terms, note = _bank(data, options) if options.decoder == BANK else _texts(data, options)
    return staging.with_terms(terms, of=STRATEGY.name, note=note)


def _bank(data: TrainingData, options: DecodeOptions) -> tuple[list[AddedTerm], str]:
    size = len(data.train_rows())
    if size < 3:
        raise LvmError(
            f"The strategy decode_in_the_loop decodes with a bank of train concepts, and the train split has {size}; "
            "load more articles."
        )
    drawn = min(options.bank_sample, size)

    def make(sources: "TermSources") -> "TermModule":
        from lvm_pipeline.training.strategies._bank import BankCrossEntropy

        return BankCrossEntropy(sources, num_drawn=drawn, temperature=options.decode_temperature)

    note = (
        f"No text decoder is used; in its place is the nearest concept of a bank: cross-entropy of the true next "
        f"concept among itself and {drawn} of {size} train concepts, drawn at each step."
    )
    return [AddedTerm(name=TERM, weight=options.decode_weight, make=make)], note


def _texts(data: TrainingData, options: DecodeOptions) -> tuple[list[AddedTerm], str]:
    info = _decoder_info(data, options.decoder)
    terms = [AddedTerm(name=TERM, weight=options.decode_weight, make=_cross_entropy(options))]
    note = (
        f"Cross-entropy of the true text through the frozen decoder {options.decoder} ({info.num_steps} steps, loss "
        f"{info.loss:.3f}, code {info.code_version}), of {options.decoded_targets} targets at each step."
    )
    if options.reencode_weight:
        encoder = _encoder(data)
        terms.append(AddedTerm(name=REENCODED, weight=options.reencode_weight, make=_reencoded(options, encoder)))
        note += " Their decoded texts are also encoded again and compared with the targets."
    return terms, note


def _cross_entropy(options: DecodeOptions) -> "Callable[[TermSources], TermModule]":
    def make(sources: "TermSources") -> "TermModule":
        from lvm_pipeline.training.strategies._text_terms import TextCrossEntropy

        decoder = _load(sources.data, options.decoder, device=str(sources.vectors.device))
        return TextCrossEntropy(sources, decoder, num_drawn=options.decoded_targets)

    return make


def _reencoded(options: DecodeOptions, encoder: "Encoder") -> "Callable[[TermSources], TermModule]":
    def make(sources: "TermSources") -> "TermModule":
        from lvm_pipeline.training.strategies._text_terms import Reencoded

        decoder = _load(sources.data, options.decoder, device=str(sources.vectors.device))
        return Reencoded(decoder, encoder, num_drawn=options.decoded_targets)

    return make


def _decoder_info(data: TrainingData, kind: str) -> "PrefixInfo":
    """Return the record of the trained decoder, which must have been trained on the train articles of these data."""
    from lvm_pipeline.decoding.prefix import read_prefix_info, trained_on_other_data

    if data.decoders_dir is None:
        raise LvmError("There is no folder of text decoders here; use the option decoder: bank.")
    info = read_prefix_info(data.decoders_dir / kind)
    if info.fingerprints != data.fingerprints or info.content_fingerprint != data.concepts.content({TEXTS}):
        raise LvmError(trained_on_other_data(data.decoders_dir / kind))
    return info


def _fingerprints(data: TrainingData, options: DecodeOptions) -> dict[str, str]:
    from lvm_pipeline.decoding.prefix import decoder_fingerprint

    if options.decoder == BANK or data.decoders_dir is None:
        return {}
    try:
        return {"decoder": decoder_fingerprint(data.decoders_dir / options.decoder)}
    except LvmError:  # there is none, or none that can be read
        return {}


def _load(data: TrainingData, kind: str, *, device: str) -> "PrefixDecoder":
    from lvm_pipeline.decoding.prefix import load_prefix_decoder

    assert data.decoders_dir is not None
    return load_prefix_decoder(data.decoders_dir / kind, space_id=data.concepts.space_id, device=device)


def _encoder(data: TrainingData) -> "Encoder":
    from lvm_pipeline.source.encoders.registry import encoder_of_space

    space_id, folder = data.concepts.space_id, data.encoders_dir
    encoder = None if folder is None else encoder_of_space(space_id, encoders_dir=folder)
    if encoder is None:
        raise LvmError(
            f"The encoder of space {space_id} is not on this machine, so decoded texts cannot be encoded again; put it "
            "into the folder of encoders, or set reencode_weight to 0."
        )
    return encoder


def refused(trial: Trial, options: Any) -> str | None:
    """Return why a trial contradicts the strategy."""
    if options.reencode_weight and options.decoder == BANK:
        return "reencode_weight needs a text decoder, so decoder must be prefix or lm"
    return None


STRATEGY = Strategy(
    name="decode_in_the_loop",
    summary="Add the cross-entropy of the true concept when the prediction is decoded, by a bank or a text decoder",
    affects="objective",
    stage=stage,
    options=DecodeOptions,
    refused=refused,
    reads_content=lambda options: () if options.decoder == BANK else (TEXTS,),
    fingerprints=_fingerprints,
)
