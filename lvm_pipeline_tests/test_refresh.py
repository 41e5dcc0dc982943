"""A refresh of concepts and sequences searches for near-duplicates once; whoever checks foreign files searches anew."""

import json
from dataclasses import replace

import pytest

from lvm_pipeline import lineage
from lvm_pipeline.concepts.order_invariants import order_is_unambiguous
from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.lineage import data
from lvm_pipeline.sequences import near_duplicates
from lvm_pipeline.sequences.invariants import check_sequences
from lvm_pipeline.settings import Settings
from lvm_pipeline_tests.synthetic import write_synthetic_concepts

LENGTHS = [9, 7, 12, 7, 8, 10, 6, 9, 11, 8] * 3


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path / "home")


@pytest.fixture
def searches(monkeypatch):
    """A list that grows by one for each search."""
    searched = []
    search = near_duplicates._close_vectors
    monkeypatch.setattr(near_duplicates, "_close_vectors", lambda *a, **k: searched.append(1) or search(*a, **k))
    return searched


def staged_concepts(settings, *, seed=0):
    settings.staging_dir.mkdir(parents=True, exist_ok=True)
    path = write_synthetic_concepts(
        settings.staging_dir / f"concepts-{seed}.parquet", article_lengths=LENGTHS, kind="noise", seed=seed
    )
    return lineage.StagedConcepts(path=path, metadata=read_concepts_metadata(path), findings=[])


def refresh_as_assets(settings, *, seed=0):
    """As the assets `concepts` and `sequences` do, each in a process of its own."""
    lineage.promote_concepts(settings, staged_concepts(settings, seed=seed))
    return lineage.promote_sequences(settings, lineage.stage_sequences(settings))


def test_both_assets_share_one_search_for_near_duplicates(settings, searches):
    refresh_as_assets(settings)
    assert len(searches) == 1
    refresh_as_assets(settings, seed=1)
    assert len(searches) == 2


def test_the_command_line_searches_for_near_duplicates_once(settings, searches):
    lineage.promote_with_sequences(settings, staged_concepts(settings))
    assert len(searches) == 1


def test_the_command_line_hands_findings_over_as_objects(settings, monkeypatch):
    monkeypatch.setattr(data, "_read_report", lambda _: pytest.fail("the report was read back"))
    found = order_is_unambiguous.not_checked("handed over")

    lineage.promote_with_sequences(settings, replace(staged_concepts(settings), findings=[found]))

    report = json.loads((settings.reports_dir / "verification.json").read_text(encoding="utf-8"))
    assert report["findings"][0]["message"] == "handed over"


def test_verification_and_other_tables_do_not_use_saved_links(settings, searches):
    refresh_as_assets(settings)
    searches.clear()
    lineage.verify_products(settings)
    assert len(searches) == 1
    check_sequences(settings.concepts_path, settings.sequences_path)
    assert len(searches) == 2
