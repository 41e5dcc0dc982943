"""Files of sequences as the original project wrote them, and the import of any of them into a home."""

import json

import numpy as np
import pytest

from lvm_pipeline.concepts.store import read_columns
from lvm_pipeline.errors import LvmError
from lvm_pipeline.exchange.npz_import import import_sequences_npz
from lvm_pipeline.findings import InvariantError, Severity
from lvm_pipeline.lineage.from_files import import_npz
from lvm_pipeline.sequences.build import SequenceOptions
from lvm_pipeline.sequences.schema import read_sequences
from lvm_pipeline.settings import Settings
from lvm_pipeline_tests.exchange.npz_files import NUM_SEQUENCES, objects, original_sequences, write_npz
from lvm_pipeline_tests.synthetic import article_vectors

NUM_ARTICLES, LENGTH, DIM = 12, 9, 16
PER_ARTICLE = LENGTH - 5


def arrays_of_articles(**changes):
    """Sequences of twelve articles with one dict each in `metadata`, and texts of contexts and targets."""
    vectors = [
        article_vectors(LENGTH, DIM, kind="noise", rng=np.random.default_rng(article))
        for article in range(NUM_ARTICLES)
    ]
    places = [(article, start) for article in range(NUM_ARTICLES) for start in range(PER_ARTICLE)]
    texts = objects([[f"text {a}.{start + offset}" for offset in range(5)] for a, start in places])
    arrays = {
        "context_sequences": np.stack([vectors[a][start : start + 5] for a, start in places]),
        "target_vectors": np.stack([vectors[a][start + 5] for a, start in places]),
        "target_texts": objects([f"text {a}.{start + 5}" for a, start in places]),
        "context_texts": np.array(texts.tolist(), dtype=object),
        "metadata": objects(
            [{"article_index": a, "target_chunk_index": start + 5, "crosses_article": False} for a, start in places]
        ),
    }
    return {name: array for name, array in {**arrays, **changes}.items() if array is not None}


def imported(tmp_path, arrays, **options):
    findings = import_sequences_npz(
        write_npz(tmp_path / "t.npz", arrays), tmp_path / "c.parquet", tmp_path / "s.parquet", **options
    )
    return findings, read_sequences(tmp_path / "s.parquet")


def test_a_dict_for_each_sequence_names_its_article(tmp_path):
    _, sequences = imported(tmp_path, arrays_of_articles())

    assert sequences.article_ids.tolist() == [str(a) for a in range(NUM_ARTICLES) for _ in range(PER_ARTICLE)]
    assert not sequences.metadata.is_leaking
    assert set(sequences.splits.tolist()) == {"train", "validation", "test"}
    columns = read_columns(tmp_path / "c.parquet", ["article_id", "position", "concept_text"]).to_pylist()
    assert [row["concept_text"] for row in columns] == [
        f"text {row['article_id']}.{row['position']}" for row in columns
    ]
    assert len(columns) == NUM_ARTICLES * LENGTH


def test_a_dict_for_each_sequence_may_be_json_text(tmp_path):
    arrays = arrays_of_articles()
    arrays["metadata"] = np.array([json.dumps(record) for record in arrays["metadata"]])

    _, sequences = imported(tmp_path, arrays)

    assert sequences.article_ids.tolist() == [str(a) for a in range(NUM_ARTICLES) for _ in range(PER_ARTICLE)]
    assert not sequences.metadata.is_leaking


def test_dicts_that_name_no_article_are_counted(tmp_path):
    arrays = arrays_of_articles()
    for record in arrays["metadata"][:3]:
        del record["article_index"]

    _, sequences = imported(tmp_path, arrays)

    assert sequences.metadata.is_leaking
    assert "the metadata of 3 of 48 sequences name no article" in sequences.metadata.leak_reason


def test_articles_are_split_as_the_settings_say(tmp_path):
    (tmp_path / "listed").write_text("3\n7\n")

    options = SequenceOptions(validation_articles=tmp_path / "listed", context_length=2)
    _, sequences = imported(tmp_path, arrays_of_articles(), sequence_options=options)

    validation = sequences.article_ids[sequences.splits == "validation"]
    assert sorted(set(validation.tolist())) == ["3", "7"]


def test_windows_that_cross_articles_leak(tmp_path):
    arrays = arrays_of_articles()
    arrays["metadata"][7]["crosses_article"] = True

    _, sequences = imported(tmp_path, arrays)

    assert sequences.metadata.is_leaking
    assert "some of its windows cross articles" in sequences.metadata.leak_reason


@pytest.mark.parametrize("value", [True, {"id": 3}, 1.5])
def test_what_is_no_article_is_refused(tmp_path, value):
    arrays = arrays_of_articles()
    arrays["metadata"][7]["article_index"] = value

    with pytest.raises(LvmError, match=r"has a dict in row 7 of metadata whose article_index is not a text but"):
        imported(tmp_path, arrays)


def test_booleans_are_no_names_and_no_codes(tmp_path):
    _, arrays = original_sequences()
    for name, words in (("article_ids", "has no name in row 0"), ("target_tmds", "is not a TMD code")):
        with pytest.raises(LvmError, match=words):
            imported(tmp_path, {**arrays, name: np.ones(35, bool)})


def test_one_text_for_every_concept_is_a_placeholder(tmp_path):
    _, sequences = imported(tmp_path, arrays_of_articles(context_texts=np.full((48, 5), "a", dtype=object)))

    assert set(sequences.splits.tolist()) == {"train", "validation", "test"}
    assert read_columns(tmp_path / "c.parquet", ["concept_text"])["concept_text"].null_count == 5 * NUM_ARTICLES


@pytest.mark.parametrize("prefix", ["", "train_"])
def test_validation_and_test_arrays_are_splits(tmp_path, prefix):
    parts = {prefix: "train", "val_": "validation", "test_": "test"}
    given = {name: original_sequences(num_concepts=20, seed=seed)[1] for seed, name in enumerate(parts)}
    arrays = {
        f"{part}{name}": given[part][name]
        for part in parts
        for name in ("context_sequences", "target_vectors", "target_texts")
    }

    _, sequences = imported(tmp_path, arrays)

    assert sequences.splits.tolist() == ["train"] * 15 + ["validation"] * 15 + ["test"] * 15
    assert sequences.metadata.split_rule == "named_in_file"
    assert sequences.metadata.is_leaking
    with pytest.raises(LvmError, match="lacks the arrays val_target_vectors"):
        imported(tmp_path, {name: array for name, array in arrays.items() if name != "val_target_vectors"})


def test_arrays_of_a_split_that_is_not_known_are_refused(tmp_path):
    arrays = arrays_of_articles()
    arrays |= {f"dev_{name}": arrays[name] for name in ("context_sequences", "target_vectors")}

    with pytest.raises(LvmError, match="holds dev_context_sequences, whose split is unknown"):
        imported(tmp_path, arrays)


def test_the_own_export_is_imported(exported, tmp_path):
    settings = Settings(home=tmp_path / "home")

    verification = import_npz(settings, exported[2])

    assert verification.passed
    failed = {finding.name: finding for finding in verification.findings if not finding.passed}
    assert failed["texts_are_not_empty"].severity is Severity.WARNING
    assert "restored from a file of sequences" in failed["texts_are_not_empty"].message
    assert len(read_sequences(settings.sequences_path).first_rows) == NUM_SEQUENCES


def test_an_import_is_checked_as_the_settings_say(exported, tmp_path):
    options = {"min_validation_articles": 1000, "severities": "splits_have_their_share=blocking"}
    settings = Settings(home=tmp_path / "home", **options)

    with pytest.raises(InvariantError, match="at least 1000 and"):
        import_npz(settings, exported[2])

    assert not settings.concepts_path.exists()


@pytest.mark.parametrize(
    "changes", [{}, {"metadata": None}, {"context_texts": None}], ids=["whole", "bare", "no texts"]
)
def test_files_of_the_original_project_are_imported(tmp_path, changes):
    path = write_npz(tmp_path / "t.npz", arrays_of_articles(**changes))

    verification = import_npz(Settings(home=tmp_path / "home"), path)

    assert verification.passed
