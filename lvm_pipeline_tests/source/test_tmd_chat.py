"""TMD codes from a real chat server: what is asked, which answers count, and what a resumed assignment asks again."""

import json
from typing import Any

import pytest
from pydantic import SecretStr

from lvm_pipeline.adapters.chat import ChatClient
from lvm_pipeline.source.schema import Tmd
from lvm_pipeline.source.tmd_chat import choose_codes, code_request, read_codes
from lvm_pipeline.source.tmd_labels import LABELS, METHOD, TmdAssignment
from lvm_pipeline_tests.chat_server import chat_server, completion
from lvm_pipeline_tests.evaluation.test_smoothing import HOSTILE

CODES = '{"domain": 3, "task": 16, "modifier": 12}'


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def client(tmp_path):
    def make(url, *, cache="chat") -> Any:
        fields = {"name": "scripted", "key": SecretStr("none"), "timeout_seconds": 5, "num_retries": 0}
        return ChatClient(url=url, cache_dir=tmp_path / cache, **fields)

    return make


CONCEPTS = [(f"id {number}", f"Concept {number}.") for number in range(6)]


def test_a_model_chooses_among_all_descriptions(client, tmp_path):
    with chat_server(lambda _: completion(CODES)) as server:
        found = choose_codes(CONCEPTS[:2], client(server.url), journal=tmp_path / "journal.jsonl")

    assert found.codes == {"id 0": Tmd(3, 16, 12), "id 1": Tmd(3, 16, 12)}
    assert found.failures == {}
    system, user = (message["content"] for message in server.requests[0]["messages"])
    for descriptions in LABELS.values():
        for number, description in enumerate(descriptions, start=1):
            assert f"{number} {description}\n" in system
    assert json.loads(user.splitlines()[1]) == "Concept 0."


@pytest.mark.parametrize(
    ("answer", "codes"),
    [
        (CODES, Tmd(3, 16, 12)),
        (f"```json\n{CODES}\n```", Tmd(3, 16, 12)),
        ('{"domain": 0, "task": 16, "modifier": 12}', None),
        ('{"domain": 16, "task": 16, "modifier": 12}', None),
        ('{"domain": 3, "task": 17, "modifier": 12}', None),
        ('{"domain": "3", "task": 16, "modifier": 12}', None),
        ('{"domain": true, "task": 16, "modifier": 12}', None),
        ('{"domain": 3, "task": 16}', None),
        ('{"domain": 3, "task": 16, "modifier": 12.5}', None),
        (f"{CODES} or {CODES}", None),
        ("domain 3, task 16, modifier 12", None),
        ("{domain: 3}", None),
    ],
)
def test_codes_are_validated(answer, codes):
    assert read_codes(answer) == codes


def test_what_failed_is_recorded_and_asked_again_and_nothing_else(client, tmp_path):
    journal = tmp_path / "journal.jsonl"
    answers = iter([completion(CODES), completion("I cannot."), (500, {}), completion(CODES)])
    with chat_server(lambda _: next(answers)) as server:
        first = choose_codes(CONCEPTS[:4], client(server.url), journal=journal)
    with journal.open("a") as cut:
        cut.write('{"key": "cut by a cra')
    with chat_server(lambda _: completion(CODES)) as server:
        second = choose_codes(CONCEPTS[:4], client(server.url, cache="another"), journal=journal)

    assert set(first.codes) == {"id 0", "id 3"}
    assert first.failures == {"no valid codes": 1, "refused": 1}
    assert set(second.codes) == {"id 0", "id 1", "id 2", "id 3"}
    assert len(server.requests) == 2


def test_a_changed_text_is_asked_again(client, tmp_path):
    with chat_server(lambda _: completion(CODES)) as server:
        for text in ("Before.", "After."):
            choose_codes([("id", text)], client(server.url), journal=tmp_path / "journal.jsonl")

    assert len(server.requests) == 2


def test_a_dead_server_is_left_after_three_failures(client, tmp_path):
    with chat_server(lambda _: (503, {})) as server:
        found = choose_codes(CONCEPTS, client(server.url), journal=tmp_path / "journal.jsonl")

    assert found.codes == {}
    assert found.failures == {"refused": 3, "not asked": 3}
    assert len(server.requests) == 3


@pytest.mark.parametrize("hostile", HOSTILE)
def test_instructions_in_a_concept_stay_data(hostile):
    asked, benign = code_request(hostile), code_request("benign")

    assert asked.system == benign.system
    assert json.loads(asked.user.splitlines()[1]) == hostile
    assert len(asked.user.splitlines()) == 3


def test_an_assignment_says_where_its_codes_come_from():
    fields: dict[str, Any] = {
        "dataset_source": "a",
        "space_id": "s",
        "labels": "1",
        "num_concepts": 9,
        "num_without": 7,
    }
    by_chat = TmdAssignment(method="the language model qwen", num_assigned=5, failures={"timeout": 2}, **fields)
    by_labels = TmdAssignment(method=METHOD, num_assigned=7, **fields)

    assert by_chat.in_words().endswith("(labels 1), so they are a function of the text; 2 got none")
    assert by_labels.in_words().endswith("so they are a function of the vector")


def test_the_answer_after_a_cut_line_is_kept(client, tmp_path):
    journal = tmp_path / "journal.jsonl"
    journal.write_text('{"key": "cut by a cra')
    with chat_server(lambda _: completion(CODES)) as server:
        choose_codes(CONCEPTS[:2], client(server.url), journal=journal)
    with chat_server(lambda _: completion(CODES)) as server:
        again = choose_codes(CONCEPTS[:2], client(server.url, cache="another"), journal=journal)

    assert set(again.codes) == {"id 0", "id 1"}
    assert not server.requests
