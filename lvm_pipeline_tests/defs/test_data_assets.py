"""The data assets on a real table: what passes shows its numbers, what fails stops everything and loses nothing."""

import dagster as dg
import pytest

from lvm_pipeline import lineage
from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.definitions import defs
from lvm_pipeline.defs.launch import QUIET
from lvm_pipeline.sequences.schema import read_sequences_metadata
from lvm_pipeline_tests.defs.source_table import execute, fill_source

pytestmark = pytest.mark.postgres


def refresh(instance):
    return (
        defs()
        .resolve_job_def("refresh_data")
        .execute_in_process(instance=instance, run_config=QUIET, raise_on_error=False)
    )


def materialised(result):
    return {event.asset_key.to_user_string(): event for event in result.get_asset_materialization_events()}


def metadata_of(result, asset):
    event = materialised(result)[asset]
    return {name: value.value for name, value in event.materialization.metadata.items()}


def failed_checks(result):
    return {
        evaluation.check_name: evaluation
        for evaluation in result.get_asset_check_evaluations()
        if not evaluation.passed
    }


def failure_of(result):
    (event,) = [event for event in result.all_events if event.is_step_failure]
    return event.step_key, event.step_failure_data.user_failure_data.description


def test_products_carry_their_numbers_and_fingerprints(make_settings, source, instance):
    settings = make_settings()

    result = refresh(instance)

    assert result.success
    concepts, sequences = metadata_of(result, "concepts"), metadata_of(result, "sequences")
    assert concepts["dagster/row_count"] == concepts["num_concepts"] == 480
    assert [column.name for column in concepts["dagster/column_schema"].columns][:3] == ["row", "cpe_id", "article_id"]
    assert sequences["dagster/row_count"] == 40 * (12 - 5)
    assert "| train |" in sequences["splits"]
    fingerprint = read_concepts_metadata(settings.concepts_path).fingerprint
    assert concepts["fingerprint"] == sequences["concepts_fingerprint"] == fingerprint
    versions = data_versions(result)
    assert versions["concepts"] == fingerprint
    assert versions["sequences"] == read_sequences_metadata(settings.sequences_path).fingerprint
    evaluations = {evaluation.check_name for evaluation in result.get_asset_check_evaluations()}
    assert {"order_is_unambiguous", "window_count_is_exact"} <= evaluations


def test_data_versions_change_only_with_the_data(make_settings, source, instance):
    make_settings()
    versions = []
    for change in (None, None, "UPDATE cpe_entry SET concept_text = concept_text || '.' WHERE sequence_index = 3"):
        if change is not None:
            execute(source.url, change)
        versions.append(data_versions(refresh(instance)))

    assert versions[0] == versions[1]
    assert versions[2]["cpe_entry"] != versions[1]["cpe_entry"]


def data_versions(result):
    (observation,) = result.asset_observations_for_node("cpe_entry")
    events = {name: event.materialization for name, event in materialised(result).items()} | {"cpe_entry": observation}
    return {name: event.tags["dagster/data_version"] for name, event in events.items()}


def test_a_blocking_check_stops_everything_and_keeps_the_earlier_products(make_settings, source, instance_on_disk):
    instance = instance_on_disk
    settings = make_settings(duplicates="fail")
    assert refresh(instance).success
    before = {path: path.read_bytes() for path in (settings.concepts_path, settings.sequences_path)}
    execute(source.url, "UPDATE cpe_entry SET concept_text = 'the very same words' WHERE sequence_index = 0")

    result = refresh(instance)

    assert not result.success
    assert materialised(result) == {}
    evaluation = failed_checks(result)["no_duplicate_concepts"]
    assert evaluation.severity == dg.AssetCheckSeverity.ERROR
    assert evaluation.metadata["observed"].value > 0
    step, sentence = failure_of(result)
    assert step == "concepts"
    assert "no_duplicate_concepts" in sentence
    assert {path: path.read_bytes() for path in before} == before
    assert list(settings.staging_dir.iterdir()) == []
    record = instance.get_latest_materialization_event(dg.AssetKey("concepts"))
    assert record.run_id != result.run_id
    (stored,) = instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(dg.AssetKey("concepts"), "no_duplicate_concepts"), limit=1
    )
    assert not stored.event.dagster_event.asset_check_evaluation_data.passed


def test_concepts_that_give_no_sequences_keep_the_earlier_products(make_settings, source, instance):
    settings = make_settings()
    assert refresh(instance).success
    kept = (settings.concepts_path, settings.sequences_path, settings.reports_dir / "verification.json")
    before = {path: path.read_bytes() for path in kept}
    execute(
        source.url,
        "DELETE FROM cpe_entry WHERE document_id <> (SELECT document_id FROM cpe_entry WHERE cpe_id = %s)",
        source.cpe_ids[0],
    )

    result = refresh(instance)

    step, sentence = failure_of(result)
    assert step == "concepts"
    assert "holds 1 article" in sentence
    assert materialised(result) == {}
    assert {path: path.read_bytes() for path in before} == before
    assert list(settings.staging_dir.iterdir()) == []


def test_missing_vectors_are_named(make_settings, source, instance):
    settings = make_settings()
    deleted = source.cpe_ids[7:9]
    execute(source.url, "DELETE FROM cpe_vectors WHERE cpe_id = ANY(%s::uuid[])", deleted)

    result = refresh(instance)

    assert not result.success
    evaluation = failed_checks(result)["every_concept_has_a_vector"]
    assert evaluation.metadata["observed"].value == 1 - 2 / 480
    assert set(deleted) <= set(str(evaluation.metadata["details"].value).split("'"))
    assert not settings.concepts_path.exists()
    assert materialised(result) == {}


def test_warnings_do_not_stop_the_data(make_settings, postgres_url, instance):
    fill_source(postgres_url, [12] * 40 + [3])
    make_settings()

    result = refresh(instance)

    assert result.success
    assert failed_checks(result)["articles_are_long_enough"].severity == dg.AssetCheckSeverity.WARN


def test_a_leaking_split_is_only_a_warning(make_settings, source, instance):
    make_settings(boundaries="ignore", split="last_20_percent")

    result = refresh(instance)

    assert result.success
    assert failed_checks(result)["sequences_do_not_leak"].severity == dg.AssetCheckSeverity.WARN
    assert metadata_of(result, "sequences")["is_leaking"] is True


def test_an_extraction_beside_another_process_fails_and_promotes_nothing(make_settings, source, instance):
    settings = make_settings()

    with lineage.data_locked(settings):
        result = refresh(instance)

    assert failure_of(result) == (
        "concepts",
        f"Another run is making the concepts or sequences of {settings.home}; wait for its end and try again.",
    )
    assert not settings.concepts_path.exists()
    assert refresh(instance).success


def test_an_unreachable_source_is_one_sentence(make_settings, source, instance, monkeypatch):
    make_settings()
    monkeypatch.setenv("LVM_DATABASE_URL", "postgresql://nobody:wrong@127.0.0.1:9/none")

    result = refresh(instance)

    step, sentence = failure_of(result)
    assert step == "cpe_entry"
    assert "127.0.0.1:9" in sentence
    assert "wrong" not in sentence
