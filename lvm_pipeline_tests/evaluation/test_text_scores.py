"""Text accuracy: known answers, ceiling and floor, which decoder is preferred, and what stands on the page."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lvm_pipeline.concepts.store import read_columns
from lvm_pipeline.decoding.prefix import load_prefix_decoder, save_prefix_decoder
from lvm_pipeline.decoding.prefix_training import PrefixOptions, train_prefix
from lvm_pipeline.decoding.search import Search
from lvm_pipeline.errors import LvmError
from lvm_pipeline.evaluation import gates
from lvm_pipeline.evaluation.not_run import NotRun
from lvm_pipeline.evaluation.report import report_from_json
from lvm_pipeline.evaluation.report_page import report_html
from lvm_pipeline.evaluation.scoring import score_model
from lvm_pipeline.evaluation.text_measures import bleu, exact_match, rouge_l, token_f1
from lvm_pipeline.evaluation.text_scores import (
    DecoderScores,
    TextMeasures,
    TextRequest,
    TextScores,
    _Sample,
    prefer,
    text_scores,
)
from lvm_pipeline.evaluation.text_tables import text_sentences, text_table
from lvm_pipeline.measures.metrics import cosines
from lvm_pipeline.measures.uncertainty import Interval
from lvm_pipeline.sequences.build import SequenceOptions, build_sequences
from lvm_pipeline.source.encoders.lsa import fit_lsa
from lvm_pipeline_tests.evaluation.products import Products
from lvm_pipeline_tests.synthetic import synthetic_table, write_table

pytestmark = pytest.mark.usefixtures("one_thread")

TOPICS = ("otter", "glacier", "sonnet", "turbine", "harbour", "enzyme")
SMALL = PrefixOptions(steps=3, hidden_dim=16, num_layers=1, vocabulary_size=300)


def test_the_measures_of_known_texts():
    truths = ["The cat sat on the mat.", "A dog barks", "one two three four", ""]
    texts = ["the CAT sat on a mat", "A dog   barks", "five six", ""]

    assert token_f1(texts, truths).tolist() == pytest.approx([2 * 5 / 12, 1, 0, 1])
    assert token_f1(["the the the"], ["the cat"]).tolist() == pytest.approx([2 * 1 / 5])
    assert exact_match(texts, truths) == 0.5
    assert bleu(truths[:1], truths[:1]) == pytest.approx(1)
    assert bleu(["nothing shared here at all"], truths[:1]) == pytest.approx(0, abs=0.05)
    assert rouge_l(["four three two one"], truths[2:3]) == pytest.approx(0.25)
    assert rouge_l(truths[:3], truths[:3]) == pytest.approx(1)


@pytest.mark.parametrize("text", ["Кошка спит на тёплой печи", "η γάτα κάθεται στο χαλί", "Öl fährt über Köln im März"])
def test_texts_of_any_script_have_words(text):
    words = text.split()
    swapped = " ".join([words[1], words[0], *words[2:]])

    for measure in (bleu, rouge_l):
        assert measure([text], [text]) == pytest.approx(1)
    assert rouge_l([swapped.upper()], [text]) == pytest.approx(1 - 1 / len(words))
    assert token_f1([swapped.upper()], [text]).tolist() == [1]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Articles on one topic each, with the vectors of an LSA encoder."""
    folder = tmp_path_factory.mktemp("texts")
    table = synthetic_table([9, 8, 10] * 8, vector_dim=768)
    texts = [
        f"The {TOPICS[index % 6]} of chapter {position} is part {row % 7} of a story."
        for row, (index, position) in enumerate(
            zip(table["article_index"].to_pylist(), table["position"].to_pylist(), strict=True)
        )
    ]
    encoder = fit_lsa(texts)
    kinds = {name: table.schema.field(name).type for name in ("concept_text", "vector")}
    columns = {
        "concept_text": pa.array(texts, kinds["concept_text"]),
        "vector": pa.FixedSizeListArray.from_arrays(encoder.encode(texts).ravel(), type=kinds["vector"]),
    }
    for name, column in columns.items():
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
    found = Products(folder)
    write_table(table, found.concepts_path, space_id=encoder.space_id)
    options = SequenceOptions(train_fraction=0.6, validation_fraction=0.3, context_length=3)
    build_sequences(found.concepts_path, found.sequences_path, options=options)
    return found, encoder, texts


@pytest.fixture(scope="module")
def trained_dir(corpus):
    return corpus[0].train("model")


@pytest.fixture(scope="module")
def scored(corpus, trained_dir):
    return score_model(trained_dir, corpus[0].data(), device="cpu", num_threads=1)


def small_decoder(products, folder):
    data = products.data()
    rows = data.train_rows()
    texts = read_columns(products.concepts_path, ["concept_text"])["concept_text"].take(rows).to_pylist()
    save_prefix_decoder(
        folder,
        train_prefix(np.asarray(data.vectors[rows]), texts, SMALL),
        space_id=data.concepts.space_id,
        fingerprints=data.fingerprints,
        code_version="1",
        options={},
        num_texts=len(rows),
    )
    return load_prefix_decoder(folder)


@pytest.fixture(scope="module")
def prefix(corpus, tmp_path_factory):
    return small_decoder(corpus[0], tmp_path_factory.mktemp("decoder") / "prefix")


@pytest.fixture
def score(corpus, scored):
    def run(*decoders, num_targets=40, has_encoder=True, **options):
        return text_scores(
            scored,
            TextRequest(num_targets=num_targets, decoders=decoders),
            concepts_path=corpus[0].concepts_path,
            encoder=corpus[1] if has_encoder else None,
            **options,
        )

    return run


class Counting:
    """A decoder that counts what it decodes."""

    def __init__(self, decoder, identity="a"):
        self.decoder, self.identity, self.num_decoded = decoder, identity, 0
        self.name, self.space_id = decoder.name, decoder.space_id

    def decode(self, vectors, *, exclude=None):
        self.num_decoded += len(vectors)
        return self.decoder.decode(vectors, exclude=exclude)


def test_true_vectors_are_decoded_once_for_the_same_data_and_decoder(score, prefix, tmp_path):
    first, again, other = Counting(prefix), Counting(prefix), Counting(prefix, identity="b")

    made = score(first, num_targets=20, cache_dir=tmp_path)
    kept = score(again, num_targets=20, cache_dir=tmp_path)

    assert kept == made
    assert (first.num_decoded, again.num_decoded) == (40, 20)
    score(other, num_targets=20, cache_dir=tmp_path)
    assert other.num_decoded == 40
    score(again, num_targets=20, cache_dir=tmp_path, seed=5)  # other targets
    score(again, num_targets=20, cache_dir=tmp_path, has_encoder=False)
    assert again.num_decoded == 20 + 40 + 40
    assert prefix.identity != prefix.searching(Search(beam=2), None).identity


def test_true_vectors_are_decoded_again_when_the_code_of_their_decoder_changes(score, prefix, tmp_path, edit):
    def num_cached():
        score(prefix, num_targets=5, cache_dir=tmp_path)
        return len(list(tmp_path.glob("text-ceiling-*.npz")))

    assert num_cached() == num_cached() == 2
    edit("lvm_pipeline.decoding._prefix_model")
    assert num_cached() == 3  # that of the nearest concept is as it was
    edit("lvm_pipeline.evaluation.report")
    assert num_cached() == 3


def test_a_second_encoder_compares_decoded_and_true_texts(corpus, scored, prefix):
    _, encoder, texts = corpus
    second = fit_lsa([text[::-1] for text in texts])

    def run(second_encoder):
        request = TextRequest(num_targets=20, decoders=[prefix], second_encoder=second_encoder)
        return text_scores(scored, request, concepts_path=corpus[0].concepts_path, encoder=encoder)

    without, found = run(None), run(second)

    assert found.second_encoder == second.space_id
    for decoder in found.decoders:
        assert -1 <= decoder.prediction.second_cosine <= 1
    nearest = found.decoders[0]
    assert nearest.ceiling.second_cosine > nearest.floor.second_cosine
    assert found.copy_last.second_cosine is not None
    titles = [[column.title for column in text_table(each).columns] for each in (without, found)]
    assert ["cosine of the texts, second encoder" in each for each in titles] == [False, True]
    assert without.copy_last.second_cosine is None
    assert f"is {second.space_id}." in text_sentences(found)[-1]


def test_the_nearest_concept_is_one_of_train_and_its_cosines_are_those_of_the_table(corpus, scored, score):
    _, _, texts = corpus
    scores = score(num_targets=10**6)
    (nearest,) = scores.decoders

    vectors = np.asarray(scored.data.vectors)
    train = scored.targets.train_rows
    rows = train[(scored.predictions @ vectors[train].T).argmax(axis=1)]
    wanted = vectors[scored.targets.scored.target_rows]
    truths = [texts[row] for row in scored.targets.scored.target_rows]
    assert scores.num_targets == len(scored.predictions)
    assert nearest.prediction.token_f1 == pytest.approx(token_f1([texts[row] for row in rows], truths).mean())
    assert nearest.prediction.round_trip_cosine == pytest.approx(cosines(vectors[rows], scored.predictions).mean())
    assert nearest.prediction.target_cosine == pytest.approx(cosines(vectors[rows], wanted).mean(), abs=1e-6)
    assert nearest.ceiling.round_trip_cosine == nearest.ceiling.target_cosine
    assert nearest.ceiling.exact_match == 0
    assert nearest.floor.token_f1 < nearest.prediction.token_f1 <= nearest.ceiling.token_f1
    assert nearest.floor.round_trip_cosine is None
    last = [texts[row - 1] for row in scored.targets.scored.target_rows]
    assert scores.copy_last.token_f1 == pytest.approx(token_f1(last, truths).mean())
    assert scores.accuracy == nearest.prediction.token_f1 == nearest.token_f1.mean
    assert (scores.preferred, scores.why_preferred) == ("nearest", "no other decoder is available")


def test_the_sample_is_drawn_by_the_seed(score):
    assert score(num_targets=12) == score(num_targets=12)
    assert score(num_targets=12, seed=1).examples != score(num_targets=12).examples
    assert len(score(num_targets=3).examples) == 3


def test_the_prefix_decoder_stands_beside_it_and_is_preferred_only_if_it_is_better(corpus, score, prefix):
    scores = score(prefix)
    nearest, other = scores.decoders

    assert (nearest.name, other.name) == ("nearest", "prefix")
    assert other.gain_over_nearest.mean == pytest.approx(
        other.ceiling.round_trip_cosine - nearest.ceiling.round_trip_cosine, abs=1e-6
    )
    assert other.gain_over_nearest.high < 0  # it was trained for three steps
    assert scores.preferred == "nearest"
    assert scores.why_preferred.startswith("prefix does not beat the nearest concept")
    for example in scores.examples:
        decoded = example.decoded["prefix"]
        assert decoded.confidence is not None
        assert len(example.context) == 3
        assert example.truth in corpus[2]
    assert scores.decoders[0].gain_over_nearest is None


def test_without_the_encoder_only_concepts_of_the_table_have_cosines(score, prefix):
    scores = score(prefix, has_encoder=False)
    nearest, other = scores.decoders

    assert nearest.ceiling.round_trip_cosine is not None
    assert other.ceiling.round_trip_cosine is None
    assert other.ceiling.token_f1 == score(prefix).decoders[1].ceiling.token_f1
    assert scores.why_preferred == "the texts of other decoders could not be encoded to compare them"
    assert scores.examples[0].decoded["prefix"].confidence is None
    assert scores.examples[0].decoded["nearest"].confidence is not None
    assert any("encoder of the vectors' space is not on this machine" in each for each in text_sentences(scores))


def test_a_text_that_is_empty_has_no_known_vector(corpus, scored, tmp_path):
    """Concepts may have no text, as the first ones of an NPZ file of sequences; each has another vector."""
    table = pq.read_table(corpus[0].concepts_path)
    texts = table["concept_text"].to_pylist()
    index = table.schema.get_field_index("concept_text")
    without = table.set_column(index, table.schema.field(index), pa.array([None, None, *texts[2:]]))
    pq.write_table(without, tmp_path / "concepts.parquet")
    options = {"concepts_path": tmp_path / "concepts.parquet", "seed": 0}
    request = TextRequest(num_targets=5)

    blind = _Sample.draw(scored, request, encoder=None, **options)
    assert blind.vectors_of([texts[5]]) is not None
    assert blind.vectors_of([texts[5], ""]) is None
    encoded = _Sample.draw(scored, request, encoder=corpus[1], **options).vectors_of([""])
    np.testing.assert_array_equal(encoded, corpus[1].encode([""]))


def measures(cosine=None, **values):
    return TextMeasures(
        **{"token_f1": 0.2, "bleu": 0.0, "rouge_l": 0.1, "exact_match": 0.0, **values}, round_trip_cosine=cosine
    )


def decoder_scores(name, *, cosine=0.5, gain=None, f1=0.2):
    interval = None if gain is None else Interval(gain, gain - 0.01, gain + 0.01)
    return DecoderScores(
        name=name,
        prediction=measures(cosine, token_f1=f1),
        ceiling=measures(cosine, token_f1=0.8),
        floor=measures(token_f1=0.1),
        token_f1=Interval(f1, f1 - 0.1, f1 + 0.1),
        gain_over_nearest=interval,
    )


def test_a_decoder_is_preferred_if_the_interval_of_its_gain_is_above_zero():
    nearest = decoder_scores("nearest")

    assert prefer([nearest, decoder_scores("prefix", gain=0.02, cosine=0.6)])[0] == "prefix"
    worse = [decoder_scores("prefix", gain=0.005), decoder_scores("a", gain=-0.1)]
    assert prefer([nearest, worse[0]])[1].startswith("prefix does not beat the nearest concept")
    assert prefer([nearest, *worse])[1].startswith("prefix and a do not beat the nearest concept")
    three = [nearest, decoder_scores("a", gain=0.02, cosine=0.6), decoder_scores("b", gain=0.1, cosine=0.7)]
    assert prefer(three) == ("b", "b beats the nearest concept in round-trip cosine on true vectors")
    assert prefer([nearest, decoder_scores("prefix")])[0] == "nearest"


def test_the_share_is_the_way_from_floor_to_ceiling():
    found = decoder_scores("prefix", f1=0.45)

    assert found.share("token_f1") == pytest.approx(0.5)
    assert found.share("round_trip_cosine") is None
    assert found.share("bleu") is None  # floor and ceiling are equal


@pytest.mark.parametrize(("f1", "passed"), [(0.49, (False, False)), (0.6, (True, False)), (0.76, (True, True))])
def test_the_thresholds_are_judged_on_the_absolute_score_of_the_preferred_decoder(score, f1, passed):
    scores = replace(score(), decoders=(decoder_scores("nearest", f1=f1),))

    found = [
        gate(scores) for gate in (gates.text_accuracy_is_above_minimum_viable, gates.text_accuracy_is_above_production)
    ]
    assert tuple(each.passed for each in found) == passed
    assert "true vectors reach 0.800, those of other targets 0.100" in found[0].message
    unseen = gates.text_accuracy_is_above_minimum_viable(None)
    assert unseen.outcome == "not checked"


def test_a_decoder_of_another_space_is_refused(score, prefix):
    foreign = replace(prefix, info=replace(prefix.info, space_id="gtr"))

    with pytest.raises(LvmError, match="The decoder prefix reads vectors of space gtr"):
        score(foreign)


@pytest.fixture(scope="module")
def text_report(products, model_dir, tmp_path_factory):
    """A report without the encoder."""
    decoder = small_decoder(products, tmp_path_factory.mktemp("small") / "prefix")
    request = TextRequest(num_targets=20, decoders=[decoder], missing={"vec2text": "It is <not> installed."})
    return products.evaluate(model_dir, text=request)


def test_the_report_carries_the_scores_through_json_to_the_page(text_report):
    report = text_report

    again = report_from_json(json.loads(json.dumps(report.as_json())))
    assert isinstance(again.text, TextScores)
    assert again.text == report.text
    assert {"text_accuracy_is_above_minimum_viable", "text_accuracy_is_above_production"} <= {
        finding.name for finding in report.findings if finding.outcome != "not checked"
    }
    page = report_html(again)
    assert "10 examples" in page
    assert "Not run: the decoder vec2text. It is &lt;not&gt; installed." in page
    assert again.text.examples[0].decoded["nearest"].text in page
    assert "not encoded" in page
    table = text_table(again.text)
    assert [row.decoder for row in table.rows] == ["nearest"] * 4 + ["prefix"] * 4 + ["copy last"]
    assert "vec2text accuracy is the mean token F1".lower() in page.lower()


def test_markup_in_texts_stays_text(report, score):
    scores = score()
    example = replace(scores.examples[0], truth="<script>alert(1)</script>", context=("<b>x</b>",))

    page = report_html(replace(report, text=replace(scores, examples=(example,))))

    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<b>x" not in page


def test_a_report_without_texts_says_why(report):
    assert report.text == NotRun(not_run="Predictions were not decoded to text.")
    assert any("Text accuracy" in sentence and "not decoded" in sentence for sentence in report.not_checked)
    assert "Not run. Predictions were not decoded to text." in report_html(report)
    assert report_from_json(report.as_json()).text == report.text
    assert "Not run. Predictions were not decoded" in report_html(replace(report, text=None))
