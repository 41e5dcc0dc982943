"""What the champion was trained on outlives a refresh, and is never that of another champion."""

import pytest

from lvm_pipeline import files
from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.lineage.drift import check_drift, keep_champion_data
from lvm_pipeline.settings import Settings
from lvm_pipeline_tests.synthetic import write_synthetic_concepts


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path / "home")


def promote(settings, seed):
    """Put another concept table in the place of the present one; return its fingerprint."""
    staged = write_synthetic_concepts(settings.staging_dir / "staged.parquet", article_lengths=[6] * 20, seed=seed)
    files.promote(staged, settings.concepts_path)
    return read_concepts_metadata(settings.concepts_path).fingerprint


def both(fingerprint):
    """Fingerprints of what a champion was trained on; its sequences are not at hand."""
    return {"concepts": fingerprint, "sequences": "gone"}


def test_the_reference_costs_no_space_and_outlives_a_refresh(settings):
    fingerprint = promote(settings, seed=1)
    keep_champion_data(settings, both(fingerprint))
    assert settings.champion_concepts_path.samefile(settings.concepts_path)

    promote(settings, seed=2)

    assert read_concepts_metadata(settings.champion_concepts_path).fingerprint == fingerprint
    assert check_drift(settings)[0].reference.fingerprint == fingerprint


def test_a_champion_that_stays_keeps_its_reference(settings):
    fingerprint = promote(settings, seed=1)
    keep_champion_data(settings, both(fingerprint))
    promote(settings, seed=2)

    keep_champion_data(settings, both(fingerprint))

    assert read_concepts_metadata(settings.champion_concepts_path).fingerprint == fingerprint


def test_the_next_champion_brings_its_own_reference(settings):
    keep_champion_data(settings, both(promote(settings, seed=1)))

    keep_champion_data(settings, both(promote(settings, seed=2)))

    assert settings.champion_concepts_path.samefile(settings.concepts_path)
    assert sorted(path.name for path in settings.data_dir.iterdir() if path.is_file()) == [
        "champion_concepts.parquet",
        "concepts.parquet",
    ]


def test_data_of_an_earlier_champion_are_no_reference(settings):
    keep_champion_data(settings, both(promote(settings, seed=1)))

    keep_champion_data(settings, both("of a champion whose concepts are gone"))

    assert not settings.champion_concepts_path.exists()
    assert not check_drift(settings)[0].has_drifted


def test_a_disk_without_links_gets_a_copy(settings, monkeypatch):
    def refuse(*_):
        raise PermissionError("no links here")

    monkeypatch.setattr(files.os, "link", refuse)

    keep_champion_data(settings, both(promote(settings, seed=1)))

    assert not settings.champion_concepts_path.samefile(settings.concepts_path)
    assert settings.champion_concepts_path.read_bytes() == settings.concepts_path.read_bytes()
