"""TMD codes by a language model, from the source table and back into it."""

import json
from dataclasses import replace

import psycopg
import pytest

from lvm_pipeline import lineage
from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.errors import LvmError
from lvm_pipeline.lineage.tmd import assign_tmd
from lvm_pipeline.settings import Settings
from lvm_pipeline_tests.chat_server import chat_server, completion
from lvm_pipeline_tests.defs.source_table import fill_source
from lvm_pipeline_tests.synthetic import synthetic_table, write_concepts, write_table

pytestmark = pytest.mark.postgres


def promote_with_codes(settings, monkeypatch, url, *updates):
    """Promote eight articles after some updates of their table, and name a language model for `lvm`."""
    fill_source(url, [12] * 8)
    with psycopg.connect(url) as connection:
        for update in updates:
            connection.execute(update)
    lineage.promote_with_sequences(settings, lineage.stage_concepts(settings))
    monkeypatch.setenv("LVM_DATABASE_URL", url)
    monkeypatch.setenv("LVM_CHAT_MODEL", "scripted")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_codes_are_written_to_the_source_table_once_a_language_model_gives_some(
    lvm, fresh_settings, monkeypatch, postgres_url
):
    codes = "UPDATE cpe_entry SET domain_code = NULL, task_code = NULL, modifier_code = NULL"
    promote_with_codes(fresh_settings, monkeypatch, postgres_url, codes)

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


def test_a_concept_with_some_of_its_codes_is_given_the_others_and_then_no_language_model_is_needed(
    lvm, fresh_settings, monkeypatch, postgres_url
):
    codes = "UPDATE cpe_entry SET domain_code = 3, task_code = 2, modifier_code = 1"
    one_missing = "UPDATE cpe_entry SET task_code = NULL WHERE sequence_index = 5"
    promote_with_codes(fresh_settings, monkeypatch, postgres_url, codes, one_missing)
    with chat_server(lambda _: completion('{"domain": 7, "task": 9, "modifier": 5}')) as server:
        monkeypatch.setenv("LVM_CHAT_URL", server.url)
        code, out, _ = lvm("tmd", "assign", "--by", "chat", "--json")
    assert code == 0
    assert json.loads(out)["num_assigned"] == json.loads(out)["num_without"] == 8
    with psycopg.connect(postgres_url) as connection:
        found = connection.execute("SELECT DISTINCT domain_code, task_code, modifier_code FROM cpe_entry ORDER BY 2")
        assert found.fetchall() == [(3, 2, 1), (3, 9, 1)]

    monkeypatch.delenv("LVM_CHAT_MODEL")
    monkeypatch.delenv("LVM_CHAT_URL")
    lineage.promote_with_sequences(fresh_settings, lineage.stage_concepts(fresh_settings))
    for method in ("chat", "labels"):
        code, out, _ = lvm("tmd", "assign", "--by", method)
        assert (code, "Every concept has TMD codes; nothing was assigned" in out) == (0, True)


def test_imported_concepts_are_in_no_source_table_that_could_keep_codes(lvm_home):
    path = Settings(home=lvm_home).concepts_path
    path.parent.mkdir(parents=True, exist_ok=True)
    table = synthetic_table([8, 9])  # its first concept has the codes 0, 0, 0
    metadata = read_concepts_metadata(write_table(table, path))
    write_concepts(path, [table], replace(metadata, source="npz:given.npz"))
    with pytest.raises(LvmError, match=r"were imported \(npz:given.npz\) and are in no source table"):
        assign_tmd(Settings(home=lvm_home))
