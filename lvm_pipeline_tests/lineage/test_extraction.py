"""The second extraction reads only what has changed, unless the user asks for all."""

import psycopg
import pytest

from lvm_pipeline import lineage
from lvm_pipeline.settings import with_options
from lvm_pipeline_tests.defs.source_table import fill_source

pytestmark = pytest.mark.postgres


def test_only_changed_articles_are_read_unless_all_are_asked_for(fresh_settings, postgres_url):
    fill_source(postgres_url, [12] * 8)
    first = lineage.stage_concepts(fresh_settings)
    assert first.extraction_in_words() == "8 articles were read from the source"
    lineage.promote_with_sequences(fresh_settings, first)
    with psycopg.connect(postgres_url) as connection:
        connection.execute(
            "UPDATE cpe_entry SET concept_text = 'A text of its own.' WHERE cpe_id = (%s)",
            [connection.execute("SELECT cpe_id FROM cpe_entry LIMIT 1").fetchone()[0]],
        )

    second = lineage.stage_concepts(fresh_settings)
    full = lineage.stage_concepts(with_options(fresh_settings, {"full_extraction": True}))

    assert second.extraction_in_words() == "1 article was read from the source; 7 have not changed and were kept"
    assert (full.num_articles_kept, full.num_articles_read) == (0, 8)
    assert second.path.read_bytes() == full.path.read_bytes()
    assert second.findings == full.findings
