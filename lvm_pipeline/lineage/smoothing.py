"""Decoded predictions of a trial, turned into fluent passages by a language model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from lvm_pipeline.concepts.store import read_columns, texts_at
from lvm_pipeline.lineage.decoders import load_text_decoder, searching
from lvm_pipeline.lineage.models import promoted_data
from lvm_pipeline.lineage.results import track_scores
from lvm_pipeline.lineage.space_encoder import space_encoder
from lvm_pipeline.lineage.trials import TrialFolder
from lvm_pipeline.settings import Settings

if TYPE_CHECKING:
    from lvm_pipeline.chat import ChatModel
    from lvm_pipeline.decoding._contract import Decoder
    from lvm_pipeline.evaluation.scoring import ScoredModel
    from lvm_pipeline.evaluation.smoothing import OnPassage, SmoothingScores
    from lvm_pipeline.evaluation.smoothing_prompt import Codes, Passage

DecoderName = Literal["nearest", "prefix", "lm", "vec2text"]
CODES = ("domain", "task", "modifier")


def smooth_trial(
    settings: Settings,
    folder: TrialFolder,
    *,
    num_targets: int = 50,
    seed: int = 0,
    chat: "ChatModel | None" = None,
    decoder: DecoderName = "nearest",
    progress: "OnPassage | None" = None,
) -> "SmoothingScores":
    """Smooth the decoded predictions of a sample of a trial's validation targets; its report then shows the scores.

    The scores with all texts are written to `smoothing.json` in the trial's folder, also if the language model gave no
    answer.

    Args:
        settings: Where the data and the trials are, and which language model is asked.
        num_targets: Size of the sample.
        chat: The language model; None: that of the settings.
        decoder: What decodes the predictions: `nearest` concept of the train articles, `prefix`, `lm` or `vec2text`.

    Raises:
        LvmError: If no language model is set up, or the trial does not belong to the present data.
    """
    from lvm_pipeline.adapters.chat import open_chat
    from lvm_pipeline.evaluation.report_page import replace_sections
    from lvm_pipeline.evaluation.scoring import score_model
    from lvm_pipeline.evaluation.smoothing import smooth, write_smoothing

    chat = chat or open_chat(settings)
    data = promoted_data(settings)
    scored = score_model(folder.model_dir, data, device=settings.device, num_threads=settings.num_threads)
    opened = open_decoder(settings, scored, decoder)
    chosen = sample_of(len(scored.predictions), num_targets, seed=seed)
    scores = smooth(
        passages_of(settings, scored, opened, chosen),
        chat,
        predictions=scored.predictions[chosen],
        targets=np.asarray(data.vectors[scored.targets.scored.target_rows[chosen]], np.float32),
        encoder=space_encoder(settings, data.concepts.space_id),
        model_fingerprint=scored.model_fingerprint,
        decoder=opened.name,
        seed=seed,
        prompt=settings.chat_prompt,
        progress=progress,
    )
    write_smoothing(scores, folder.path)
    report = replace_sections(folder.path, fingerprint=scores.model_fingerprint, smoothing=scores.for_report())
    if report is not None:
        track_scores(settings, folder, report)
    return scores


def open_decoder(settings: Settings, scored: "ScoredModel", name: DecoderName) -> "Decoder":
    """Return a decoder of the model's space.

    Raises:
        LvmError: If it cannot decode vectors of this space, or is not installed.
    """
    from lvm_pipeline.decoding.nearest import NearestConcept, open_bank
    from lvm_pipeline.decoding.vec2text import open_vec2text

    space_id = scored.data.concepts.space_id
    if name == "prefix" or name == "lm":
        decoder = load_text_decoder(settings, name, space_id=space_id)
        return searching(settings, decoder, space_encoder(settings, space_id))
    if name == "vec2text":
        return open_vec2text(settings.vec2text_dir, space_id=space_id)
    rows = scored.targets.train_rows
    return NearestConcept(bank=open_bank(settings.concepts_path, settings.vectors_dir, space_id=space_id, rows=rows))


def sample_of(num: int, num_wanted: int, *, seed: int) -> np.ndarray:
    """Return the positions of a sample without replacement, ascending; all of them if there are too few."""
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(num, size=min(num, num_wanted), replace=False))


def passages_of(
    settings: Settings, scored: "ScoredModel", decoder: "Decoder", chosen: np.ndarray
) -> "Sequence[Passage]":
    """Return some of the scored targets with the texts that a language model or a person may see."""
    from lvm_pipeline.evaluation.smoothing_prompt import Passage

    targets, data = scored.targets.scored.part(chosen), scored.data
    table = read_columns(settings.concepts_path, ["concept_text", *CODES])
    texts = table["concept_text"]
    codes = [table[name].to_pylist() for name in CODES]
    contexts = [np.arange(first, row) for first, row in zip(targets.window_rows, targets.target_rows, strict=True)]
    decoded = decoder.decode(scored.predictions[chosen], exclude=contexts)

    def codes_of(row: int) -> "Codes | None":
        domain, task, modifier = (column[row] for column in codes)
        has_codes = None not in (domain, task, modifier) and (domain, task, modifier) != (0, 0, 0)
        return (domain, task, modifier) if has_codes else None

    return [
        Passage(
            target_row=int(row),
            article_id=data.articles.ids[article],
            context=tuple(texts_at(texts, rows)),
            codes=tuple(codes_of(each) for each in rows.tolist()),
            decoded=text,
            truth=texts[int(row)].as_py() or "",
        )
        for row, article, rows, text in zip(targets.target_rows, targets.articles, contexts, decoded, strict=True)
    ]
