"""TMD codes by a language model, from the source table and back into it."""

import json

import psycopg
import pytest

from lvm_pipeline import lineage
from lvm_pipeline_tests.chat_server import chat_server, completion
from lvm_pipeline_tests.defs.source_table import fill_source

pytestmark = pytest.mark.postgres


def test_codes_are_written_to_the_source_table_once_a_language_model_gives_some(
    lvm, fresh_settings, monkeypatch, postgres_url
):
    fill_source(postgres_url, [12] * 8)
    with psycopg.connect(postgres_url) as connection:
        connection.execute("UPDATE cpe_entry SET domain_code = NULL, task_code = NULL, modifier_code = NULL")
    lineage.promote_with_sequences(fresh_settings, lineage.stage_concepts(fresh_settings))
    monkeypatch.setenv("LVM_DATABASE_URL", postgres_url)
    monkeypatch.setenv("LVM_CHAT_MODEL", "scripted")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    with chat_server(lambda _: completion("I would rather not.")) as server:
        monkeypatch.setenv("LVM_CHAT_URL", server.url)
        code, _, err = lvm("tmd", "assign", "--by", "chat")
    assert code == 1
    assert "The language model gave no codes (96 no valid codes)" in " ".join(err.split())

    with chat_server(lambda _: completion('{"domain": 7, "task": 2, "modifier": 1}')) as server:
        monkeypatch.setenv("LVM_CHAT_URL", server.url)
        code, out, _ = lvm("tmd", "assign", "--by", "chat", "--json")
    assert code == 0
    assert json.loads(out)["num_assigned"] == json.loads(out)["num_without"] == 96
    with psycopg.connect(postgres_url) as connection:
        codes = connection.execute("SELECT DISTINCT domain_code, task_code, modifier_code FROM cpe_entry").fetchall()
    assert codes == [(7, 2, 1)]
