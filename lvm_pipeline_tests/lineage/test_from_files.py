"""Work on given files, which stay as they are."""

import pytest

from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.findings import InvariantError
from lvm_pipeline.lineage import from_files
from lvm_pipeline.settings import Settings
from lvm_pipeline_tests.synthetic import write_synthetic_concepts


def settings_in(folder, **options):
    return Settings(home=folder, device="cpu", num_threads=1, min_validation_sequences=1, **options)


@pytest.mark.parametrize("min_articles", [1, 1000])
def test_an_imported_table_stays_where_the_user_has_it(tmp_path, min_articles):
    given = write_synthetic_concepts(tmp_path / "mine" / "concepts.parquet", article_lengths=[12] * 30)
    before = given.read_bytes()
    blocking = "splits_have_their_share=blocking"
    settings = settings_in(tmp_path / "home", min_validation_articles=min_articles, severities=blocking)

    if min_articles == 1:
        from_files.import_npz(settings, given)
        assert read_concepts_metadata(settings.concepts_path).num_concepts == 360
    else:
        with pytest.raises(InvariantError, match="splits_have_their_share"):
            from_files.import_npz(settings, given)
        assert not settings.concepts_path.exists()

    assert given.read_bytes() == before
    assert not list(settings.staging_dir.iterdir())
