"""`lvm try` and the page `/try`: every trained architecture and the linear forecast on one article."""

import gzip
import io
import re
import sys
from pathlib import Path
from urllib.parse import quote_plus

import numpy as np
import pytest

from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.errors import LvmError
from lvm_pipeline.inference.context import ReadingModel
from lvm_pipeline.inference.trying import try_article
from lvm_pipeline.lineage import serving, trying
from lvm_pipeline.lineage.space_encoder import space_encoder
from lvm_pipeline.lineage.trials import named_trial
from lvm_pipeline.lineage.trying import LINEAR_FORECAST, article_trier
from lvm_pipeline.measures.metrics import cosines
from lvm_pipeline.source.articles import concepts_of_text
from lvm_pipeline.source.encoders.lsa import fit_lsa
from lvm_pipeline.source.encoders.registry import remember_encoder
from lvm_pipeline.training.trained_model import load_trained_model
from lvm_pipeline_tests.serving.homes import LENGTHS, call, make_home, texts_of, train_trial

ARTICLE = "\n\n".join(
    f"{first} Then there is more to say of it, and <b>somebody</b> says it at some length in the next sentence. {last}"
    for first, last in zip(texts_of(LENGTHS)[:4], texts_of(LENGTHS)[20:24], strict=True)
)

NUM_CONCEPTS = 5


@pytest.fixture(scope="module")
def trier(trial_home):
    return article_trier(trial_home)


@pytest.fixture(scope="module")
def tried(trier):
    return trier(ARTICLE)


def test_every_architecture_and_the_linear_forecast_predict_after_each_concept(trial_home, trier, tried):
    texts = concepts_of_text(ARTICLE)
    vectors = np.asarray(trier.encoder.encode(texts))

    assert {each.name for each in tried.tried} == {"gru", "lstm", LINEAR_FORECAST}
    assert list(tried.texts) == texts
    assert len(texts) == NUM_CONCEPTS
    model, _ = load_trained_model(named_trial(trial_home, "gru").model_dir)
    reading = ReadingModel(model, window=None)
    expected = cosines(np.stack([reading.read(vector) for vector in vectors])[:-1], vectors[1:])
    gru = next(each for each in tried.tried if each.name == "gru")
    np.testing.assert_allclose([each.cosine for each in gru.expected[:-1]], expected, atol=1e-5)
    assert gru.expected[-1].cosine is None
    assert gru.mean_cosine == pytest.approx(float(expected.mean()), abs=1e-5)


def test_the_closest_wins_each_concept(tried):
    for position, winner in enumerate(tried.winners):
        best = max(tried.tried, key=lambda each: each.expected[position].cosine)
        assert winner == best.name
    assert sum(each.wins for each in tried.tried) == len(tried.winners) == NUM_CONCEPTS - 1
    means = [each.mean_cosine for each in tried.tried]
    assert means == sorted(means, reverse=True)


def test_what_was_read_is_never_expected_again(trier):
    texts = texts_of(LENGTHS)[:6]  # concepts of the table
    vectors = np.asarray(trier.encoder.encode(texts), np.float32)

    article = try_article(
        texts, vectors, {"copy": lambda read: read}, index=trier.index, space_id=trier.space_id, left_out={}
    )

    for position, expected in enumerate(article.tried[0].expected):
        assert expected.text not in texts[: position + 1]
        assert expected.text


@pytest.mark.parametrize(("text", "message"), [("", "has 0 concepts"), ("One sentence.", "has 1 concept and")])
def test_a_text_that_is_too_short_is_refused(trier, text, message):
    with pytest.raises(LvmError, match=message):
        trier(text)


def test_the_command_prints_who_was_right_and_writes_a_page_of_its_own(trial_home, lvm, tmp_path, monkeypatch):
    monkeypatch.setenv("LVM_HOME", str(trial_home.home))
    path, page_path = tmp_path / "article.txt", tmp_path / "page.html"
    path.write_text(ARTICLE)

    code, out, err = lvm("try", path, "--output", page_path)

    assert (code, err) == (0, "")
    assert re.search(rf"gru .* of {NUM_CONCEPTS - 1}", out)
    assert "linear forecast" in out
    page = page_path.read_text()
    assert "&lt;b&gt;somebody&lt;/b&gt;" in page
    assert "<b>somebody" not in page
    assert not re.findall(r"(?:src|href)=|https?://(?!www.w3.org)", page)
    assert "<form" not in page
    code, _, err = lvm("try", tmp_path / "nowhere.txt")
    assert (code, "There is no file" in err) == (1, True)


def test_articles_of_one_name_have_pages_of_their_own(trial_home, lvm, tmp_path, monkeypatch):
    monkeypatch.setenv("LVM_HOME", str(trial_home.home))
    pages = set()
    for name in ("a/notes.txt", "b/notes.txt", "b/notes.txt", "b/notes.md"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(ARTICLE)
        code, out, _ = lvm("try", path)
        assert code == 0
        pages.add(out.rpartition("Page: ")[2].strip())

    assert len(pages) == 3
    assert all(Path(page).is_file() for page in pages)


def test_an_article_may_be_packed_or_come_on_standard_input(trial_home, lvm, tmp_path, monkeypatch):
    monkeypatch.setenv("LVM_HOME", str(trial_home.home))
    packed = tmp_path / "article.txt.gz"
    packed.write_bytes(gzip.compress(ARTICLE.encode("utf-16")))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(ARTICLE.encode())))

    unpacked, piped = (lvm("try", given, "--output", tmp_path / "page.html") for given in (packed, "-"))

    assert unpacked[0] == piped[0] == 0
    assert unpacked[1] == piped[1]
    assert "<h1>standard input</h1>" in (tmp_path / "page.html").read_text()
    code, _, err = lvm("try", trial_home.concepts_path)
    assert (code, "is a file of Parquet; give a plain text file" in err) == (1, True)


def test_the_served_page_has_the_form_and_the_same_figures(server, tried):
    status, headers, form = call(f"{server}/try")
    assert (status, headers["Content-Type"].partition(";")[0]) == (200, "text/html")
    assert "<form" in form

    body = f"article={quote_plus(ARTICLE)}".encode()
    status, _, page = call(f"{server}/try", body, content_type="application/x-www-form-urlencoded")
    assert status == 200
    for each in tried.tried:
        assert f"{each.mean_cosine:.4f}" in page


def test_a_refused_article_stays_in_the_form_with_the_reason_above_it(server):
    body = f"article={quote_plus('One <short> sentence.')}".encode()

    status, headers, page = call(f"{server}/try", body, content_type="application/x-www-form-urlencoded")

    assert (status, headers["Content-Type"].partition(";")[0]) == (422, "text/html")
    assert "The article has 1 concept and must have 2 to 200" in page
    assert re.search(r"<textarea[^>]*>One &lt;short&gt; sentence\.</textarea>", page)
    body = b"article=" + b"a" * 2**21
    status, _, page = call(f"{server}/try", body, content_type="application/x-www-form-urlencoded")
    assert (status, "The body is larger than" in page) == (413, True)


def test_the_bare_address_leads_to_the_description_of_the_requests(server):
    status, _, page = call(f"{server}/")

    assert (status, "POST /predict" in page) == (200, True)


def test_a_named_encoder_must_make_the_vectors_of_the_concepts(trial_home, tmp_path):
    space_id = read_concepts_metadata(trial_home.concepts_path).space_id
    named = space_encoder(trial_home, space_id, name=space_id)
    assert named.space_id == space_id
    other = fit_lsa([text.replace("river", "lake")[::-1] for text in texts_of(LENGTHS)])
    remember_encoder(other, encoders_dir=trial_home.encoders_dir)

    with pytest.raises(LvmError, match=r"makes other vectors than the concepts have \(mean cosine"):
        space_encoder(trial_home, space_id, name=other.space_id)
    assert space_encoder(trial_home, "nobody's") is None


def test_the_page_takes_models_that_were_trained_since_and_leaves_the_others_loaded(tmp_path, monkeypatch):
    home = make_home(tmp_path / "home")
    train_trial(home, architecture="gru", mode="articles")
    loads = []
    load = trying.article_trier
    monkeypatch.setattr(trying, "article_trier", lambda *given, **named: loads.append(1) or load(*given, **named))
    page = serving._pages(home, None)

    first, again = page(ARTICLE), page(ARTICLE)
    train_trial(home, architecture="lstm", mode="windows")
    with_lstm = page(ARTICLE)
    retrained = train_trial(home, architecture="gru", mode="articles", seed=1)
    later = page(ARTICLE)

    assert first == again
    assert "lstm" not in first
    assert "lstm" in with_lstm
    assert later != with_lstm
    assert len(loads) == 3
    assert retrained.model_dir == (home.models_dir / "gru").resolve()
