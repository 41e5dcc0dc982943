"""The server on a real port: what it answers, what it refuses, and how it takes another model."""

import dataclasses
import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvm_pipeline.errors import LvmError
from lvm_pipeline.lineage.prediction import predict_on
from lvm_pipeline.lineage.serving import loader_of, serving_app, source_of
from lvm_pipeline.lineage.trials import named_trial
from lvm_pipeline.serving.holder import ModelHolder
from lvm_pipeline.serving.messages import PredictRequest
from lvm_pipeline.serving.model import FailedPredictionError
from lvm_pipeline.training.data import load_training_data
from lvm_pipeline_tests.adapters.processes import wait_until
from lvm_pipeline_tests.serving.homes import LENGTHS, call, make_home, running, texts_of, train_trial

TEXTS = texts_of(LENGTHS)[:4]


@pytest.fixture(scope="module")
def vectors(trial_home):
    data = load_training_data(trial_home.concepts_path, trial_home.sequences_path, trial_home.vectors_dir)
    return np.asarray(data.vectors)


def predict(url, body):
    status, _, text = call(f"{url}/predict", body)
    return status, json.loads(text)


def test_a_model_with_a_ranking_output_orders_the_nearest_concepts_as_lvm_predict_does(tmp_path):
    home = make_home(tmp_path / "home")
    trial = train_trial(home, architecture="gru", mode="articles", strategy="ranking")
    lines = [json.dumps({"text": text}).encode() for text in TEXTS]
    *_, expected = predict_on(home, trial.model_dir, lines, num_nearest=5, warn=pytest.fail)

    with running(serving_app(home, trial="gru")) as url:
        status, found = predict(url, {"texts": TEXTS, "nearest": 5})

    assert status == 200
    assert [each["cpe_id"] for each in found["nearest"]] == [each["cpe_id"] for each in expected.nearest]
    cosines = [each["cosine"] for each in found["nearest"]]
    assert cosines == pytest.approx([each["cosine"] for each in expected.nearest], abs=1e-5)
    assert cosines != sorted(cosines, reverse=True)


def test_texts_and_their_vectors_are_answered_alike_and_as_lvm_predict_does(server, trial_home, vectors):
    status, of_texts = predict(server, {"texts": TEXTS, "nearest": 3})
    _, of_vectors = predict(server, {"vectors": vectors[:4].tolist(), "nearest": 3})

    lines = [json.dumps({"text": text}).encode() for text in TEXTS]
    model_dir = named_trial(trial_home, "gru").model_dir
    *_, expected = predict_on(trial_home, model_dir, lines, num_nearest=3, warn=pytest.fail)
    assert status == 200
    np.testing.assert_allclose(of_texts["prediction"], expected.vector, atol=1e-5)
    np.testing.assert_allclose(of_vectors["prediction"], expected.vector, atol=1e-5)
    assert [each["cpe_id"] for each in of_texts["nearest"]] == [each["cpe_id"] for each in expected.nearest]
    assert of_texts["nearest"] == of_vectors["nearest"]
    assert of_texts["text"] == of_texts["nearest"][0]["concept_text"] not in TEXTS
    assert of_texts["confidence"] == pytest.approx(of_texts["nearest"][0]["cosine"])
    assert (of_texts["trial_id"], of_texts["version"], of_texts["num_context"]) == (model_dir.parent.name, None, 4)
    assert of_texts["space_id"].startswith("lsa-768@")


def test_a_model_of_windows_reads_the_last_five(trial_home, vectors):
    with running(serving_app(trial_home, trial="lstm")) as url:
        _, long = predict(url, {"vectors": vectors[:9].tolist()})
        _, short = predict(url, {"vectors": vectors[4:9].tolist()})

    assert long["num_context"] == short["num_context"] == 5
    np.testing.assert_allclose(long["prediction"], short["prediction"], atol=1e-6)


def test_no_concept_of_the_context_is_near_however_many_are_asked_for(server, vectors):
    _, found = predict(server, {"vectors": vectors[:5].tolist(), "nearest": 100, "decoder": None})

    assert len(found["nearest"]) == 100
    texts = {each["concept_text"] for each in found["nearest"]}
    assert not texts & set(texts_of(LENGTHS)[:5])
    cosines = [each["cosine"] for each in found["nearest"]]
    expected = np.sort(vectors[5:] @ np.array(found["prediction"], np.float32))[::-1][:100]
    np.testing.assert_allclose(cosines, expected, atol=1e-5)
    assert (found["text"], found["confidence"]) == (None, None)


def test_many_at_once_are_answered_as_each_alone(server, vectors):
    bodies = [{"vectors": vectors[start : start + length].tolist()} for start in range(8) for length in (1, 4, 9)]
    alone = [predict(server, body)[1] for body in bodies]

    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda body: predict(server, body), bodies))

    for (status, found), expected in zip(together, alone, strict=True):
        assert status == 200
        np.testing.assert_allclose(found["prediction"], expected["prediction"], atol=1e-5)
        assert found["text"] == expected["text"]


UNIT = [1.0] + [0.0] * 767


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"{", 400, "The body is not JSON"),
        (b"\xff\xfe", 400, "The body is not JSON"),
        (b"", 400, "The body is not JSON"),
        (b"[]", 422, "the body: input should be"),
        ({}, 422, "either texts or vectors"),
        ({"texts": ["a"], "vectors": [UNIT]}, 422, "either texts or vectors"),
        ({"texts": []}, 422, "The context is empty"),
        ({"vectors": []}, 422, "The context is empty"),
        ({"texts": ["  "]}, 422, "is empty"),
        ({"texts": "abc"}, 422, "texts: input should be a valid array"),
        ({"vectors": [[1.0, 2.0]]}, 422, "must have 768 numbers in each row"),
        ({"vectors": [UNIT, UNIT[:-1]]}, 422, "a row has another length"),
        ({"vectors": [["x"] * 768]}, 422, "valid number"),
        ({"vectors": [[None] * 768]}, 422, "valid number"),
        ({"vectors": [[float("nan"), *UNIT[1:]]]}, 422, "Row 0 of vectors has a number that is not finite"),
        ({"vectors": [UNIT, [float("-inf"), *UNIT[1:]]]}, 422, "Row 1 of vectors has a number that is not finite"),
        ({"vectors": [[1e39, *UNIT[1:]]]}, 422, "not finite"),
        ({"vectors": [[0.0] * 768]}, 422, "all zeros"),
        ({"vectors": [UNIT] * 41}, 422, "has 41 concepts; the limit is 40"),
        ({"texts": ["a"] * 41}, 422, "has 41 concepts; the limit is 40"),
        ({"vectors": [UNIT], "space_id": "gtr-t5-base"}, 422, "of space gtr-t5-base and the model reads lsa-768@"),
        ({"vectors": [UNIT], "decoder": "telepathy"}, 422, "no decoder 'telepathy' on this server; there are nearest"),
        ({"vectors": [UNIT], "nearest": 101}, 422, "nearest: input should be less than or equal to 100"),
        ({"vectors": [UNIT], "nearest": -1}, 422, "nearest: input should be greater"),
        ({"vectors": [UNIT], "k": 3}, 422, "There is no field k; the fields are texts, vectors, tmd_dense"),
        (b"9" * (2**20 + 1), 413, "larger than the 1,048,576 bytes"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_reason(server, body, status, reason):
    found, answer = predict(server, body)

    assert (found, answer.keys()) == (status, {"detail"})
    assert reason in answer["detail"]
    assert "Traceback" not in answer["detail"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(["texts", "vectors", "tmd_dense", "space_id", "nearest", "decoder"])


@given(body=st.dictionaries(FIELDS, JSON, max_size=4) | JSON | st.binary(max_size=20))
def test_nothing_that_is_sent_breaks_the_server(server, body):
    status, answer = predict(server, body if isinstance(body, bytes) else json.dumps(body).encode())

    assert status in (200, 400, 422), answer
    if status == 200:
        assert np.isfinite(answer["prediction"]).all()
    else:
        assert answer.keys() == {"detail"}


def test_one_bad_request_of_many_at_once_spoils_no_other(server, vectors):
    good, bad = {"vectors": vectors[:3].tolist()}, {"vectors": [[float("nan")] * 768]}

    with ThreadPoolExecutor(8) as pool:
        statuses = [status for status, _ in pool.map(lambda body: predict(server, body), [good, bad] * 12)]

    assert statuses == [200, 422] * 12


def test_a_prediction_that_fails_spoils_no_other_of_its_batch(trial_home, vectors):
    served = loader_of(trial_home)(source_of(trial_home, trial="gru")())
    served.predictor.config = dataclasses.replace(served.predictor.config, unit_length=False)  # nothing is scaled
    good, huge = (PredictRequest(vectors=rows) for rows in (vectors[:3].tolist(), [[1e30] * 768]))

    first, failed, second = served.answers([good, huge, good])

    assert isinstance(failed, FailedPredictionError)
    assert first["prediction"] == second["prediction"]


def test_a_client_that_leaves_is_no_failure_of_the_server(server, caplog):
    with socket.create_connection(urlsplit(server).netloc.split(":")) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{")
        time.sleep(0.1)
    assert wait_until(lambda: 'path="/predict",status="499"' in call(f"{server}/metrics")[2], seconds=60)
    assert 'status="500"' not in call(f"{server}/metrics")[2]
    assert caplog.text == ""


def test_texts_without_an_encoder_are_refused_and_vectors_are_not(tmp_path, vectors):
    settings = make_home(tmp_path / "home")
    train_trial(settings, architecture="gru", mode="articles")
    settings.encoders_dir.rename(tmp_path / "away")

    with running(serving_app(settings, trial="gru")) as url:
        status, answer = predict(url, {"texts": TEXTS})
        assert (status, predict(url, {"vectors": vectors[:2].tolist()})[0]) == (422, 200)

    assert "is not available on this server; send vectors" in answer["detail"]


def test_health_metrics_and_openapi_describe_the_server(server, vectors):
    predict(server, {"vectors": vectors[:2].tolist()})
    predict(server, b"{")

    _, _, health = call(f"{server}/health")
    _, headers, metrics = call(f"{server}/metrics")
    _, _, openapi = call(f"{server}/openapi.json")

    assert json.loads(health)["trial_id"].startswith("gru-smoke")
    assert json.loads(health)["decoders"] == ["nearest"]
    assert json.loads(health)["search"] == "exact"
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    assert float(values['lvm_requests_total{path="/predict",status="200"}']) >= 1
    assert float(values['lvm_requests_total{path="/predict",status="400"}']) >= 1
    of_path = 'lvm_request_seconds_bucket{path="/predict"'
    buckets = [float(value) for name, value in values.items() if name.startswith(of_path)]
    assert buckets == sorted(buckets)
    assert buckets[-1] == float(values['lvm_request_seconds_count{path="/predict"}']) >= 2
    assert any(name.startswith('lvm_model_info{trial_id="gru-smoke') for name in values)
    assert json.loads(openapi)["paths"].keys() >= {"/predict", "/health", "/metrics"}


def test_requests_under_another_host_name_are_refused_where_names_are_given(trial_home, vectors):
    """Else a web site whose name resolves to this machine could read the concepts through a visitor's browser."""
    body = {"vectors": vectors[:2].tolist()}
    with running(serving_app(trial_home, trial="gru", host_names=["127.0.0.1", "models.example.org"])) as url:
        assert call(f"{url}/predict", body)[0] == 200
        assert call(f"{url}/predict", body, host="Models.example.org:8443")[0] == 200
        status, _, text = call(f"{url}/predict", body, host="evil.example.org")
    assert status == 400
    assert "not to 'evil.example.org'; behind a proxy, start it with the proxy's address as LVM_SERVE_URL" in text


def test_the_page_of_the_requests_describes_each_and_fetches_nothing_from_elsewhere(server):
    status, headers, page = call(f"{server}/docs")

    assert (status, headers["Content-Type"].partition(";")[0]) == (200, "text/html")
    for named in ("POST /predict", "GET /health", "GET /metrics", "tmd_dense", "list of list of number or null"):
        assert named in page
    assert "Concepts in reading order" in page
    assert "The model cannot read the context" in page
    assert not re.findall(r"(?:src|href)=.https?:|//cdn|@import", page)
    assert call(f"{server}/redoc")[0] == 404
    assert call(f"{server}/nowhere")[0] == 404


def test_the_time_in_the_server_is_in_a_header(server, vectors):
    _, headers, _ = call(f"{server}/predict", {"vectors": vectors[:2].tolist()})

    assert 0 < float(headers["Server-Timing"].removeprefix("total;dur=")) < 60_000


def test_another_model_is_taken_while_requests_go_on_and_a_broken_one_is_not(tmp_path, vectors):
    settings = make_home(tmp_path / "home", serve_poll_seconds=0.05)
    folder = train_trial(settings, architecture="gru", mode="articles")
    body = {"vectors": vectors[:3].tolist()}

    with running(serving_app(settings, trial="gru")) as url:
        before = predict(url, body)[1]["prediction"]
        weights = folder.model_dir / "model.safetensors"
        (folder.model_dir / "trained_model.json").touch()
        whole = weights.read_bytes()
        weights.write_bytes(b"broken")
        (folder.model_dir / "trained_model.json").touch()
        assert wait_until(lambda: json.loads(call(f"{url}/health")[2])["reload_error"], seconds=60)
        assert predict(url, body)[1]["prediction"] == before

        weights.write_bytes(whole)
        train_trial(settings, architecture="gru", mode="articles", epochs=1)
        statuses = []

        def is_reloaded():
            statuses.append(predict(url, body)[0])
            return "lvm_model_reloads_total 0" not in call(f"{url}/metrics")[2]

        assert wait_until(is_reloaded, seconds=60)
        assert set(statuses) == {200}
        assert json.loads(call(f"{url}/health")[2])["reload_error"] is None


def test_a_model_that_cannot_be_found_at_the_start_is_one_sentence(trial_home):
    with pytest.raises(LvmError, match="no trained trial 'mamba'"):
        serving_app(trial_home, trial="mamba")


def test_the_holder_follows_its_source(trial_home):
    sources = {name: source_of(trial_home, trial=name)() for name in ("gru", "lstm")}
    wanted = ["gru"]
    holder = ModelHolder(lambda: sources[wanted[0]], loader_of(trial_home), poll_seconds=60)

    wanted[0] = "lstm"
    holder.refresh()
    holder.refresh()

    assert holder.current.identity["architecture"] == "lstm"
    assert (holder.num_reloads, holder.num_failures) == (1, 0)


def test_the_holder_goes_on_looking_after_any_error(trial_home):
    sources = {name: source_of(trial_home, trial=name)() for name in ("gru", "lstm")}
    wanted, load, is_full = ["gru"], loader_of(trial_home), [True]

    def load_on_a_device(source):
        if source is sources["lstm"] and is_full[0]:
            raise RuntimeError("CUDA out of memory")
        return load(source)

    holder = ModelHolder(lambda: sources[wanted[0]], load_on_a_device, poll_seconds=0.01)
    holder.start()
    try:
        wanted[0] = "lstm"
        assert wait_until(lambda: holder.num_failures > 1, seconds=60)
        assert holder.last_error == "CUDA out of memory"
        is_full[0] = False
        assert wait_until(lambda: holder.num_reloads == 1, seconds=60)
    finally:
        holder.stop()
    assert holder.last_error is None
