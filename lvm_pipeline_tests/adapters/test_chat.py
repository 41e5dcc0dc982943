"""A language model behind a real HTTP server: answers, and every way in which there is none."""

import time
from dataclasses import replace

import pytest
from pydantic import SecretStr

from lvm_pipeline.adapters.chat import MAX_BYTES, NO_KEY, ChatClient, open_chat
from lvm_pipeline.adapters.loopback import free_port
from lvm_pipeline.chat import ChatAnswer, ChatFailure, ChatRequest
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings
from lvm_pipeline_tests.chat_server import chat_server, completion

REQUEST = ChatRequest(system="Answer.", user="data", max_tokens=20)
KEY = "sk-s3cret-key"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def client(tmp_path):
    """Make a client of a server; it does not retry unless told to."""

    def make(url, **options):
        return ChatClient(
            url=url,
            name="scripted",
            cache_dir=tmp_path / "chat",
            **{"key": SecretStr(KEY), "timeout_seconds": 5, "num_retries": 0, **options},
        )

    return make


def test_a_question_is_asked_once_and_then_answered_from_the_cache(client):
    with chat_server(lambda _: completion("  An answer.\n")) as server:
        first, second = client(server.url).ask(REQUEST), client(server.url).ask(REQUEST)
        other_model = replace(client(server.url), name="another").ask(REQUEST)
        other_question = client(server.url).ask(replace(REQUEST, user="other data"))

    assert first == ChatAnswer(text="An answer.")
    assert second == ChatAnswer(text="An answer.", is_cached=True)
    assert not other_model.is_cached
    assert not other_question.is_cached
    assert len(server.requests) == 3
    asked = server.requests[0]
    assert asked["messages"] == [{"role": "system", "content": "Answer."}, {"role": "user", "content": "data"}]
    assert (asked["temperature"], asked["max_tokens"], asked["model"]) == (0, 20, "scripted")
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_a_damaged_cache_is_asked_again(client):
    with chat_server(lambda _: completion("An answer.")) as server:
        client(server.url).ask(REQUEST)
        (path,) = client(server.url).cache_dir.glob("*.json")
        path.write_text("{")
        again = client(server.url).ask(REQUEST)

    assert again == ChatAnswer(text="An answer.")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"<html>It works!</html>", "malformed"),
        ({"error": "model not loaded"}, "malformed"),
        ({"choices": []}, "malformed"),
        ({"choices": [{"message": "text"}]}, "malformed"),
        (completion(["parts"]), "malformed"),
        (completion(None), "empty"),
        (completion("  \n"), "empty"),
        (completion("<think>I wonder.</think>"), "empty"),
        (completion("and so on and", finish_reason="length"), "too long"),
        (completion("word " * 100), "too long"),
        ((500, {"error": {"message": "out of memory"}}), "refused"),
        ((401, {"error": {"message": f"Incorrect API key provided: {KEY}"}}), "refused"),
        ((404, {"error": {"message": "no such model"}}), "refused"),
    ],
)
def test_what_is_no_answer_is_a_failure_and_is_not_cached(client, answer, kind):
    with chat_server(lambda _: answer) as server:
        failure = client(server.url).ask(REQUEST)
        client(server.url).ask(REQUEST)

    assert isinstance(failure, ChatFailure)
    assert failure.kind == kind
    assert KEY not in f"{failure}"
    assert len(server.requests) == 2


def test_the_thoughts_of_a_reasoning_model_are_not_part_of_its_answer(client):
    with chat_server(lambda _: completion("<think>I wonder.\nSo.</think>\n\nAn answer.")) as server:
        assert client(server.url).ask(REQUEST).text == "An answer."


def test_the_words_of_a_server_are_whole_where_there_is_no_key(client):
    answer = (404, {"error": {"message": "none of the models has this name"}})
    with chat_server(lambda _: answer) as server:
        failure = client(server.url, key=SecretStr(NO_KEY)).ask(REQUEST)

    assert failure.reason.endswith("none of the models has this name")


def test_a_server_that_is_not_there_is_a_failure(client):
    failure = client(f"http://127.0.0.1:{free_port()}/v1").ask(REQUEST)

    assert failure.kind == "unreachable"
    assert failure.is_of_server


def test_a_slow_server_is_left(client):
    def slow(_):
        time.sleep(3)
        return completion("late")

    with chat_server(slow) as server:
        started = time.monotonic()
        failure = client(server.url, timeout_seconds=0.3).ask(REQUEST)

    assert failure.kind == "timeout"
    assert time.monotonic() - started < 30  # the server's own sleep is in it


def test_a_server_that_sends_byte_by_byte_is_left(client):
    def drip(_):
        def write(out):
            for _ in range(100):
                out.write(b" ")
                out.flush()
                time.sleep(0.05)

        return write

    with chat_server(drip) as server:
        assert client(server.url, timeout_seconds=0.5).ask(REQUEST).kind == "timeout"


def test_an_endless_response_is_cut(client):
    def flood(_):
        def write(out):
            for _ in range(3 * MAX_BYTES // 1000):
                out.write(b"x" * 1000)

        return write

    with chat_server(flood) as server:
        assert client(server.url).ask(REQUEST).kind == "too long"


def test_an_error_that_passes_is_tried_again_and_one_that_stays_a_bounded_number_of_times(client):
    answers = [(503, {}), (503, {}), completion("An answer.")]
    with chat_server(lambda _: answers.pop(0)) as server:
        assert client(server.url, num_retries=2).ask(REQUEST).text == "An answer."
    with chat_server(lambda _: (503, {})) as server:
        assert client(server.url, num_retries=1).ask(REQUEST).kind == "refused"
    assert len(server.requests) == 2


def test_the_key_is_in_no_representation(client):
    assert "s3cret" not in f"{client('http://127.0.0.1:1/v1')!r}"


def test_without_a_server_or_a_model_the_settings_are_named(tmp_path):
    with pytest.raises(LvmError, match="set LVM_CHAT_URL and LVM_CHAT_MODEL to an OpenAI-compatible server"):
        open_chat(Settings(home=tmp_path))
    with pytest.raises(LvmError, match="set LVM_CHAT_MODEL to"):
        open_chat(Settings(home=tmp_path, chat_url="http://127.0.0.1:1/v1"))


def test_the_settings_lead_to_a_client(tmp_path):
    found = open_chat(
        Settings(
            home=tmp_path,
            chat_url="http://127.0.0.1:1/v1",
            chat_model="qwen",
            chat_key=SecretStr(KEY),
            chat_timeout_seconds=3,
        )
    )

    assert (found.url, found.name, found.timeout_seconds) == ("http://127.0.0.1:1/v1", "qwen", 3)
    assert found.key.get_secret_value() == KEY
    assert found.cache_dir.is_relative_to(tmp_path)
