"""The section on decoded predictions: its table, sentences and examples."""

from dataclasses import dataclass

from lvm_pipeline.evaluation.gates import MINIMUM_VIABLE_TEXT_ACCURACY, PRODUCTION_TEXT_ACCURACY
from lvm_pipeline.evaluation.not_run import NO_TEXT, NotRun
from lvm_pipeline.evaluation.report_tables import interval_in_words
from lvm_pipeline.evaluation.text_scores import DecoderScores, TextExample, TextMeasures, TextScores
from lvm_pipeline.tables import Column, Table, number

THRESHOLDS = (MINIMUM_VIABLE_TEXT_ACCURACY, PRODUCTION_TEXT_ACCURACY)
MEASURES = (
    ("token F1", "token_f1"),
    ("BLEU", "bleu"),
    ("ROUGE-L", "rouge_l"),
    ("exact match", "exact_match"),
    ("round-trip cosine", "round_trip_cosine"),
    ("cosine to the target", "target_cosine"),
    ("cosine of the texts, second encoder", "second_cosine"),
)


@dataclass(frozen=True, kw_only=True)
class TextRow:
    """What was decoded, and by which decoder; `kind` colours it."""

    decoder: str
    decoded: str
    measures: dict[str, float | None]
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class TextSection:
    """What a page shows; without a table if nothing was decoded."""

    not_run: str | None = None
    sentences: tuple[str, ...] = ()
    table: Table[TextRow] | None = None
    examples: tuple[TextExample, ...] = ()


def text_section(scores: TextScores | NotRun | None) -> TextSection:
    """Return what a page shows of decoded predictions."""
    if scores is None or isinstance(scores, NotRun):
        return TextSection(not_run=(scores or NO_TEXT).not_run)
    return TextSection(sentences=tuple(text_sentences(scores)), table=text_table(scores), examples=scores.examples)


def text_table(scores: TextScores) -> Table[TextRow]:
    """Return for each decoder the rows of predictions, ceiling, floor and share, the preferred one first."""
    rows: list[TextRow] = []
    for each in sorted(scores.decoders, key=lambda row: row.name != scores.preferred):
        rows += _rows(each)
    rows.append(TextRow(decoder="copy last", decoded="the last concept's text", measures=_values(scores.copy_last)))
    columns: list[Column[TextRow]] = [
        Column(title="decoder", text=lambda row: row.decoder, is_text=True),
        Column(title="what is decoded", text=lambda row: row.decoded, is_text=True),
        *(number(title, lambda row, name=name: row.measures[name], ".3f") for title, name in _measured(scores)),
    ]
    return Table(columns=columns, rows=rows, kind=lambda row: row.kind)


def _measured(scores: TextScores) -> list[tuple[str, str]]:
    return [(title, name) for title, name in MEASURES if name != "second_cosine" or scores.second_encoder is not None]


def text_sentences(scores: TextScores) -> list[str]:
    """Return what the figures say, in words."""
    sentences = [f"{scores.definition[0].upper()}{scores.definition[1:]}."]
    sentences += [_accuracy_in_words(each) for each in scores.decoders]
    sentences.append(f"Preferred decoder: {scores.preferred}, since {scores.why_preferred}.")
    sentences += [
        f"Gain of {each.name} over the nearest concept in round-trip cosine on true vectors: "
        f"{interval_in_words(each.gain_over_nearest)} (95 % interval)."
        for each in scores.decoders
        if each.gain_over_nearest is not None
    ]
    if not scores.has_encoder:
        sentences.append(
            "The encoder of the vectors' space is not on this machine, so only concepts of the table have cosines."
        )
    if scores.second_encoder is not None:
        sentences.append(f"The second encoder, which compares decoded and true texts, is {scores.second_encoder}.")
    return sentences + [f"Not run: the decoder {name}. {reason}" for name, reason in scores.missing.items()]


def _accuracy_in_words(scores: DecoderScores) -> str:
    found = scores.token_f1
    interval = "" if found.low is None or found.high is None else f" [{found.low:.1%}, {found.high:.1%}]"
    limits = " and ".join(f"{'above' if found.mean > limit else 'not above'} {limit:.0%}" for limit in THRESHOLDS)
    share = scores.share("token_f1")
    way = "" if share is None else f", {share:.0%} of the way from floor to ceiling"
    return f"Accuracy with the decoder {scores.name}: {found.mean:.1%}{interval}, {limits}{way}."


def _rows(scores: DecoderScores) -> list[TextRow]:
    return [
        TextRow(decoder=scores.name, decoded="predictions", measures=_values(scores.prediction), kind="model"),
        TextRow(decoder=scores.name, decoded="true vectors (ceiling)", measures=_values(scores.ceiling)),
        TextRow(decoder=scores.name, decoded="vectors of other targets (floor)", measures=_values(scores.floor)),
        TextRow(
            decoder=scores.name,
            decoded="share of the way from floor to ceiling",
            measures={name: scores.share(name) for _, name in MEASURES},
            kind="chance",
        ),
    ]


def _values(measures: TextMeasures) -> dict[str, float | None]:
    return {name: getattr(measures, name) for _, name in MEASURES}
