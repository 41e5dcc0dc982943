"""The setting `severities` turns single checks into warnings or errors, and a failed one says so."""

import pytest

from lvm_pipeline import lineage
from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import InvariantError
from lvm_pipeline.lineage.data import check_staged_concepts
from lvm_pipeline.lineage.invariants import with_set_severities
from lvm_pipeline.lineage.products import check_model
from lvm_pipeline.settings import Settings
from lvm_pipeline_tests.rescored_here import rescored_here
from lvm_pipeline_tests.synthetic import write_synthetic_concepts, write_synthetic_sequences, write_table
from lvm_pipeline_tests.worded import rotated, vector_column, vectors_in, with_columns, worded_table


@pytest.fixture
def path(tmp_path):
    """Concepts whose vectors do not belong to their texts."""
    table = worded_table([30] * 40)
    harmed = with_columns(table, vector=vector_column(rotated(vectors_in(table)[::-1])))
    return write_table(harmed, tmp_path / "concepts.parquet")


def finding_of(path, tmp_path, **values):
    found = check_staged_concepts(Settings(home=tmp_path, **values), path, read_concepts_metadata(path))
    (finding,) = (each for each in found if each.name == "vectors_go_with_their_texts")
    return finding


def test_a_blocking_check_warns_if_it_is_set_to(path, tmp_path):
    assert finding_of(path, tmp_path).outcome == "failed"

    finding = finding_of(
        path, tmp_path, severities="vectors_go_with_their_texts = warning, cpe_ids_are_unique=blocking"
    )

    assert finding.outcome == "warning"
    assert finding.message.endswith("(severity set to warning)")
    assert finding.details["severity_set_to"] == "warning"


def test_names_and_severities_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(LvmError, match="did you mean vectors_go_with_their_texts"):
        with_set_severities(Settings(home=tmp_path, severities="vectors_go_with_text=warning"), [])
    with pytest.raises(LvmError, match="set it to `warning` or `blocking`"):
        with_set_severities(Settings(home=tmp_path, severities="cpe_ids_are_unique=off"), [])


def test_a_table_that_cannot_be_checked_leaves_nothing_staged(tmp_path, monkeypatch):
    settings = Settings(home=tmp_path / "home")
    write_synthetic_concepts(settings.concepts_path, article_lengths=[12] * 30)

    with pytest.raises(LvmError, match="names the check 'nonsense'"):
        lineage.stage_sequences(settings.model_copy(update={"severities": "nonsense=warning"}))
    monkeypatch.setattr("lvm_pipeline.lineage.data.read_sequences_metadata", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lineage.stage_sequences(settings)

    assert not list(settings.staging_dir.iterdir())


def outcomes(findings, *names):
    found = {finding.name: finding.outcome for finding in findings}
    return [found[name] for name in names]


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Settings under which a model of noise was trained, and its folder."""
    rescored_here(monkeypatch)
    options = {"architecture": "gru", "preset": "smoke", "epochs": 1, "num_threads": 1, "model": {"hidden_dim": 8}}
    settings = Settings(home=tmp_path / "home", device="cpu", **options)
    write_synthetic_concepts(settings.concepts_path, article_lengths=[9, 12, 7] * 8, vector_dim=8, kind="noise")
    write_synthetic_sequences(settings.concepts_path, settings.sequences_path)
    return settings, lineage.train_trial(settings, lineage.training_config_of(settings)).folder


def test_a_severity_that_is_set_holds_for_the_model_and_its_report(trained):
    settings, folder = trained
    lineage.evaluate_trial(settings, folder)
    blocking = settings.model_copy(update={"severities": "beats_best_baseline=blocking"})

    with pytest.raises(InvariantError, match="severity set to blocking"):
        lineage.evaluate_trial(blocking, folder)

    weights = folder.model_dir / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    name = "checkpoint_reproduces_its_score"
    assert outcomes(check_model(settings, folder), name) == ["failed"]
    warned = settings.model_copy(update={"severities": f"{name}=warning"})
    assert outcomes(check_model(warned, folder), name) == ["warning"]


def test_a_training_keeps_the_severities_that_are_set(trained):
    settings, _ = trained
    name = "checkpoint_reproduces_its_score"
    warned = settings.model_copy(update={"severities": f"{name}=warning"})

    made = lineage.train_trial(warned, lineage.training_config_of(warned), again=True)

    (finding,) = (each for each in made.findings if each.name == name)
    assert finding.details["severity_set_to"] == "warning"


def test_promoted_sequences_are_checked_as_the_settings_say(tmp_path):
    options = {"min_validation_articles": 100, "severities": "splits_have_their_share=blocking"}
    settings = Settings(home=tmp_path / "home", **options)
    write_synthetic_concepts(settings.concepts_path, article_lengths=[12] * 60)
    write_synthetic_sequences(settings.concepts_path, settings.sequences_path)

    assert outcomes(lineage.check_sequences_product(settings), "splits_have_their_share") == ["failed"]
