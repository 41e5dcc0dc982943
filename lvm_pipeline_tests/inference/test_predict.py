"""`lvm predict` as a person meets it: in a pipe, line by line, and what mistakes lead to."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lvm_pipeline.adapters import mlflow_registry
from lvm_pipeline.adapters.mlflow_tracker import MlflowTracker
from lvm_pipeline.architectures._contract import config_with, count_parameters
from lvm_pipeline.architectures._ranking_head import NUM_VIEWS, RANKED, ranking_output
from lvm_pipeline.architectures.lstm import ARCHITECTURE as LSTM
from lvm_pipeline.errors import LvmError
from lvm_pipeline.files import write_json
from lvm_pipeline.inference.predict import StreamPredictor
from lvm_pipeline.inference.reading import GivenConcept
from lvm_pipeline.lineage.prediction import model_folder, predict_on
from lvm_pipeline.settings import Settings
from lvm_pipeline.source.encoders.lsa import fit_lsa
from lvm_pipeline.source.encoders.registry import remember_encoder
from lvm_pipeline.training.trained_model import load_trained_model, save_trained_model
from lvm_pipeline_tests.evaluation.products import make_products

LENGTHS = [12, 9, 14, 22, 11, 18, 13, 8] * 3


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    return make_products(tmp_path_factory.mktemp("predicted"), lengths=LENGTHS)


@pytest.fixture(scope="module")
def model_dir(products):
    """A GRU that reads articles."""
    return products.train("gru", mode="articles", architecture="gru", epochs=1)


@pytest.fixture(scope="module")
def vectors(products):
    """The vectors of the first three articles, by article."""
    data = products.data()
    firsts, lengths = data.articles.first_rows, data.articles.lengths
    return [np.asarray(data.vectors[first : first + n]) for first, n in zip(firsts[:3], lengths[:3], strict=True)]


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path / "home", num_threads=1, device="cpu")


def lines_of(articles, **fields):
    return [
        json.dumps({"article_id": name, "vector": vector.tolist(), **fields}).encode()
        for name, article in articles.items()
        for vector in article
    ]


def predicted(settings, model_dir, source, **options):
    return list(predict_on(settings, model_dir, source, warn=options.pop("warn", pytest.fail), **options))


def test_each_concept_gives_the_prediction_of_its_article_so_far(settings, model_dir, vectors):
    found = predicted(settings, model_dir, lines_of({"a": vectors[0], "b": vectors[1], 3: vectors[2]}))

    model, _ = load_trained_model(model_dir)
    with torch.inference_mode():
        expected = [model(torch.from_numpy(article)[None])[0].numpy() for article in vectors]
    np.testing.assert_allclose([p.vector for p in found], np.concatenate(expected), rtol=0, atol=2e-5)
    assert [(p.article_id, p.position) for p in found][11:14] == [("a", 11), ("b", 0), ("b", 1)]
    assert all(p.num_context == p.position + 1 for p in found)


def test_a_model_of_windows_reads_the_last_five(settings, products, vectors):
    model_dir = products.train("windows", mode="windows")

    found = predicted(settings, model_dir, lines_of({"a": vectors[0], "b": vectors[0][3:]}))

    assert [p.num_context for p in found][:7] == [1, 2, 3, 4, 5, 5, 5]
    np.testing.assert_array_equal(found[7].vector, found[len(vectors[0]) + 4].vector)  # the same five concepts


def test_a_concept_table_is_read_as_lines_are(settings, products, model_dir, vectors):
    from_table = predicted(settings, model_dir, products.concepts_path)
    ids = products.data().articles.ids

    from_lines = predicted(settings, model_dir, lines_of(dict(zip(ids, vectors, strict=False))))

    assert len(from_table) == sum(LENGTHS)
    for one, other in zip(from_table, from_lines, strict=False):
        np.testing.assert_array_equal(one.vector, other.vector)


def test_written_numbers_are_read_back_without_loss(settings, model_dir, vectors):
    (found,) = predicted(settings, model_dir, lines_of({"a": vectors[0][:1]}))

    values = json.loads(json.dumps(found.as_json()))

    np.testing.assert_array_equal(np.array(values["prediction"], np.float32), found.vector)
    assert values.keys() == {"article_id", "position", "num_context", "prediction"}
    assert max(len(str(number)) for number in values["prediction"]) < 17
    assert "prediction" not in found.as_json(has_vector=False)


def test_nearest_concepts_are_those_of_the_promoted_table(settings, products, model_dir, vectors):
    settings.data_dir.mkdir(parents=True)
    shutil.copy(products.concepts_path, settings.concepts_path)

    found = predicted(settings, model_dir, lines_of({"a": vectors[0][:2]}), num_nearest=3)

    cosines = [concept["cosine"] for concept in found[1].nearest]
    table = np.asarray(products.data().vectors)
    assert cosines == pytest.approx(np.sort(table[2:] @ found[1].vector)[::-1][:3].tolist(), abs=1e-5)
    assert found[1].as_json()["nearest"][0].keys() == {"cpe_id", "article_id", "position", "concept_text", "cosine"}


def test_a_model_with_a_ranking_output_finds_the_nearest_concepts_with_it(settings, products, vectors):
    settings.data_dir.mkdir(parents=True)
    shutil.copy(products.concepts_path, settings.concepts_path)
    model_dir = products.train("ranking", architecture="gru", mode="articles", strategy="ranking", learning_rate=0.05)
    model, _ = load_trained_model(model_dir)

    found = predicted(settings, model_dir, lines_of({"a": vectors[0][:2], "b": vectors[1][:2]}), num_nearest=3)

    ranker = ranking_output(model)
    assert ranker is not None
    table = np.asarray(products.data().vectors)
    table = np.delete(table, np.arange(len(vectors[0]), len(vectors[0]) + 2), axis=0)  # what was read of this article
    with torch.inference_mode():
        views = ranker(torch.from_numpy(vectors[1][:2])[None])[:, -1].unflatten(-1, (NUM_VIEWS, -1))
        nearest = np.argsort(-table @ ranker.head.query(views)[0].numpy())[:RANKED]
        directions = F.normalize(torch.from_numpy(table[nearest]), dim=-1)[None]
        scores = ranker.head.score(views, directions, ranker.head.whitened(directions))[0].numpy()
    best = table[nearest[np.argsort(-scores)[:3]]] @ found[3].vector
    assert [concept["cosine"] for concept in found[3].nearest] == pytest.approx(best.tolist(), abs=1e-5)
    assert best.tolist() != pytest.approx(np.sort(table @ found[3].vector)[::-1][:3].tolist(), abs=1e-5)


def test_no_nearest_concept_was_read_in_the_same_article(settings, products, model_dir, vectors):
    settings.data_dir.mkdir(parents=True)
    shutil.copy(products.concepts_path, settings.concepts_path)
    ids = products.data().articles.ids
    size = sum(LENGTHS)

    found = predicted(settings, model_dir, lines_of({"a": vectors[0], "b": vectors[1]}), num_nearest=size)

    for prediction in found:
        named = {(each["article_id"], each["position"]) for each in prediction.nearest}
        own = ids["ab".index(prediction.article_id)]
        assert len(named) == size - prediction.position - 1
        assert not {(own, position) for position in range(prediction.position + 1)} & named


def test_vectors_of_another_length_are_scaled_and_that_is_said_once(settings, model_dir, vectors):
    warnings = []
    expected = predicted(settings, model_dir, lines_of({"a": vectors[0]}))

    found = predicted(settings, model_dir, lines_of({"a": 3 * vectors[0]}), warn=warnings.append)

    np.testing.assert_allclose([p.vector for p in found], [p.vector for p in expected], rtol=0, atol=1e-5)
    assert warnings == ["Vectors are scaled to unit length, as the model's space has them; line 1 had 3."]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"vector": [1, 2, 3]}', "line 3: the vector has 3 numbers and the model reads 16"),
        (json.dumps({"vector": [float("nan")] * 16}), "line 3: the vector has a number that is not finite"),
        (json.dumps({"vector": [1e300] * 16}), "not finite"),
        (json.dumps({"vector": [0.0] * 16}), "line 3: the vector is all zeros"),
        ('{"text": "A thing."}', "the encoder of the model's space synthetic is not available"),
        (json.dumps({"vector": [1.0] * 16, "space_id": "gtr"}), "line 3 is of space gtr and the model reads synthetic"),
    ],
)
def test_a_concept_that_does_not_fit_ends_the_stream_after_those_before_it(settings, model_dir, vectors, line, message):
    predictions = predict_on(settings, model_dir, [*lines_of({"a": vectors[0][:2]}), line.encode()], warn=pytest.fail)

    assert [next(predictions).position, next(predictions).position] == [0, 1]
    with pytest.raises(LvmError) as refused:
        next(predictions)
    assert message in str(refused.value)


def test_a_prediction_that_is_not_finite_ends_the_stream(products):
    info = load_trained_model(products.train("lstm", mode="articles"))[1]
    model = LSTM.build(config_with(LSTM.presets["smoke"].config, {"vector_dim": 16, "unit_length": False}))
    predictor = StreamPredictor(model, info, encoders_dir=products.folder, warn=pytest.fail)
    concepts = (GivenConcept(location="a line", vector=np.full(16, size, np.float32)) for size in (1, 1e30))

    predictions = predictor.predictions(concepts)

    assert next(predictions).position == 0
    with pytest.raises(LvmError, match="predicted a number that is not finite"):
        next(predictions)


def test_a_stated_space_must_be_the_models(settings, model_dir, vectors):
    assert len(predicted(settings, model_dir, lines_of({"a": vectors[0]}), space_id="synthetic")) == len(vectors[0])
    with pytest.raises(LvmError, match="of space synthetic, not gtr"):
        predicted(settings, model_dir, [], space_id="gtr")


def test_texts_are_encoded_by_the_encoder_of_the_models_space(settings, products):
    texts = [f"The cat number {n} sat on the mat with a dog." for n in range(30)]
    encoder = fit_lsa(texts)
    remember_encoder(encoder, encoders_dir=settings.encoders_dir)
    model_dir = trained_in(products.folder / "texts", encoder, texts, products)

    from_texts = predicted(settings, model_dir, [b"The cat sat.\n", b'{"text": "A dog on a mat."}\n'])
    encoded = encoder.encode(["The cat sat.", "A dog on a mat."])
    from_vectors = predicted(settings, model_dir, [json.dumps(vector.tolist()).encode() for vector in encoded])

    assert len(from_texts) == 2
    np.testing.assert_array_equal([p.vector for p in from_texts], [p.vector for p in from_vectors])


def trained_in(folder, encoder, texts, products):
    """A fresh model that says of itself that it is of the encoder's space."""
    info = load_trained_model(products.train("lstm", mode="articles"))[1]
    config = config_with(LSTM.presets["smoke"].config, {"vector_dim": encoder.vector_dim})
    model = LSTM.build(config)
    info = dataclasses.replace(
        info,
        config=dataclasses.asdict(config),
        num_params=count_parameters(model),
        space_id=encoder.space_id,
    )
    save_trained_model(folder, model.state_dict(), info)
    return folder


def test_which_model_is_used(settings, tmp_path):
    assert model_folder(settings, model=tmp_path, architecture="gru") == tmp_path
    with pytest.raises(LvmError, match="No trial of gru is trained yet"):
        model_folder(settings, architecture="gru")


def test_an_empty_home_has_no_champion_and_gets_no_database(tmp_path):
    settings = Settings(home=tmp_path / "home")
    with pytest.raises(LvmError, match="There is no champion yet"):
        model_folder(settings)
    assert not settings.home.exists()


def test_a_missing_champion_is_explained_by_the_last_decision(tmp_path):
    settings = Settings(home=tmp_path / "home")
    decision = {"promote": False, "reason": "gru-smoke is not promoted: its gain is not above zero."}
    write_json(settings.reports_dir / "champion.json", {"decision": decision, "name": None})

    with pytest.raises(
        LvmError, match=r"There is no champion: gru-smoke is not promoted: .* zero\. Choose a model with"
    ):
        model_folder(settings)


@pytest.mark.slow
@pytest.mark.postgres
def test_the_champion_is_the_default_and_a_missing_one_is_an_error(fresh_settings, postgres_url, model_dir, vectors):
    uri = postgres_url.replace("postgresql://", "postgresql+psycopg2://")
    settings = Settings(home=fresh_settings.home, mlflow_tracking_uri=uri, num_threads=1)
    with pytest.raises(LvmError, match="There is no champion yet"):
        model_folder(settings)
    tracker = MlflowTracker(settings, system_metrics=False)
    tracker.start("gru", params={}, tags={}, fingerprints={})
    tracker.log_model(model_dir)
    tracker.finish("FINISHED")
    mlflow_registry.promote(settings, mlflow_run_id=tracker.run_id, tags={}, description="The only one.")

    folder = model_folder(settings)

    assert folder != model_dir
    found, expected = (predicted(settings, each, lines_of({"a": vectors[0]})) for each in (folder, model_dir))
    np.testing.assert_array_equal([p.vector for p in found], [p.vector for p in expected])


# --- in a pipe -----------------------------------------------------------------------------------


@pytest.fixture
def command(model_dir, tmp_path):
    """`lvm predict` in a process of its own, its ends open."""
    code = "import sys; from lvm_pipeline.cli import main; sys.argv[0] = 'lvm'; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "predict", "--model", str(model_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "LVM_NUM_THREADS": "1"},
    )
    yield process
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_each_line_is_answered_before_the_next_is_written(command, vectors):
    for position, line in enumerate(lines_of({"a": vectors[0][:3]})):
        command.stdin.write(line + b"\n")
        command.stdin.flush()
        assert json.loads(command.stdout.readline())["position"] == position
    command.stdin.write(b'{"vector": [1]}\n')
    out, err = command.communicate()

    assert (command.returncode, out) == (1, b"")
    assert err.decode().splitlines() == [
        "Error: line 4: the vector has 1 numbers and the model reads 16; give vectors of space synthetic."
    ]


@pytest.mark.slow
def test_it_ends_quietly_when_the_reader_closes_the_pipe(command, vectors):
    lines = lines_of({"a": vectors[0]})
    command.stdin.write(lines[0] + b"\n")
    command.stdin.flush()
    assert command.stdout.readline()
    command.stdout.close()
    command.stdout = None
    _, err = command.communicate(b"\n".join(lines[1:]) + b"\n")

    assert (command.returncode, err) == (0, b"")
