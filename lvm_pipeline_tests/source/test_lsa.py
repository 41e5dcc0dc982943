import json
import subprocess
import sys

import numpy as np
import pytest
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.encoders import lsa
from lvm_pipeline.source.encoders.encoder import encoder_folder
from lvm_pipeline.source.encoders.lsa import VECTOR_DIM, fit_lsa, load_lsa
from lvm_pipeline.source.encoders.registry import encoder_named, encoder_of_space, remember_encoder

SUBJECTS = ["cat", "dog", "tree", "river", "stone", "wind", "house", "road"]
VERBS = ["eats", "sees", "finds", "loses", "keeps", "breaks"]


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    return [
        f"The {rng.choice(SUBJECTS)} {rng.choice(VERBS)} word{rng.integers(100)}, word{rng.integers(100)} number {i}."
        for i in range(150)
    ]


@pytest.fixture(scope="module")
def encoder(texts):
    return fit_lsa(texts)


def test_vectors_are_of_unit_length_and_fixed_width(encoder, texts):
    vectors = encoder.encode([*texts, "unheard-of xylophones", "the"])
    assert vectors.shape == (len(texts) + 2, VECTOR_DIM)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_text_is_nearer_to_one_that_shares_words(encoder):
    cat, same, other = encoder.encode(["The cat eats word7.", "The cat eats word8.", "A river loses word9 and word11."])
    assert cat @ same > cat @ other + 0.1


def test_a_vector_depends_on_its_text_alone(encoder, texts, monkeypatch):
    together = encoder.encode(texts)
    monkeypatch.setattr(lsa, "BATCH_SIZE", 7)
    np.testing.assert_allclose(encoder.encode(texts), together, atol=1e-6)
    np.testing.assert_allclose(encoder.encode(texts[3:4])[0], together[3], atol=1e-6)


def test_weights_are_those_of_scikit_learn_bit_for_bit(encoder, texts):
    given = [*texts, "The CAT, the cat: the\u0130 word7 word7", "", "zzzz"]
    reference = TfidfVectorizer(
        vocabulary=list(encoder.vocabulary), sublinear_tf=True, dtype=np.float64, token_pattern=lsa.WORD
    )
    reference.idf_ = encoder.idf

    expected = sparse.csr_matrix(reference.transform(given)).toarray()
    np.testing.assert_array_equal(encoder._weights(given).toarray(), expected)


def test_a_fitted_encoder_encodes_without_scikit_learn(encoder, tmp_path):
    """Importing it takes a second or two, which is most of the time to the first answer."""
    encoder.save(tmp_path / "encoder")
    script = (
        "import sys; from pathlib import Path; from lvm_pipeline.source.encoders.lsa import load_lsa; "
        "load_lsa(Path(sys.argv[1])).encode(['The cat eats.']); print('sklearn' in sys.modules)"
    )

    run = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "encoder"], capture_output=True, text=True, check=True
    )

    assert run.stdout == "False\n"


def test_texts_without_known_words_get_directions_of_their_own(encoder):
    first, second, again = encoder.encode(["zzzz", "yyyy", "zzzz"])
    assert abs(first @ second) < 0.3
    np.testing.assert_array_equal(first, again)


def test_the_order_of_words_moves_a_vector_by_next_to_nothing(encoder):
    first, second = encoder.encode(["The cat eats word7.", "Word7 eats the cat."])
    assert not np.array_equal(first, second)
    assert first @ second > 0.9999


def test_the_space_id_follows_the_texts(encoder, texts):
    again = fit_lsa(texts)
    assert again.space_id == encoder.space_id
    np.testing.assert_array_equal(again.projection, encoder.projection)
    assert fit_lsa(texts[:-1]).space_id != encoder.space_id
    assert fit_lsa(texts[::-1]).space_id != encoder.space_id


def test_the_fast_solver_keeps_nearly_all_that_the_exact_one_does(monkeypatch):
    monkeypatch.setattr(lsa, "VECTOR_DIM", 16)
    rng = np.random.default_rng(1)
    texts = [" ".join(f"t{topic}w{word}" for word in rng.zipf(1.5, 12) % 20) for topic in rng.integers(24, size=600)]
    fast = fit_lsa(texts)
    monkeypatch.setattr(lsa, "NUM_ITERATIONS", 30)
    exact = fit_lsa(texts)
    weights = fast._weights(texts)

    assert np.linalg.norm(weights @ fast.projection) > 0.98 * np.linalg.norm(weights @ exact.projection)
    np.testing.assert_allclose(fast.projection.T @ fast.projection, np.eye(16), atol=1e-4)
    assert (fast.projection.max(axis=0) >= -fast.projection.min(axis=0)).all()  # the signs are decided


def test_texts_with_few_directions_leave_zeros_behind_their_rank(monkeypatch):
    monkeypatch.setattr(lsa, "VECTOR_DIM", 32)
    words = " ".join(f"w{j}" for j in range(100))
    texts = [f"{name} {words}" for name in ["alpha", "beta", "gamma", "delta"] * 25]
    encoder = fit_lsa(texts)
    assert 0 < np.any(encoder.projection != 0, axis=0).sum() <= 4
    assert np.isfinite(encoder.encode(texts[:4])).all()


def test_saved_and_loaded_gives_the_same_vectors(encoder, texts, tmp_path):
    remember_encoder(encoder, encoders_dir=tmp_path)
    loaded = encoder_named(encoder.space_id, encoders_dir=tmp_path)
    np.testing.assert_array_equal(loaded.encode(texts), encoder.encode(texts))


def test_who_may_read_the_description_may_read_the_numbers(encoder, tmp_path):
    encoder.save(tmp_path / "encoder")
    assert len({path.stat().st_mode for path in (tmp_path / "encoder").iterdir()}) == 1


def test_the_encoder_of_a_space_is_found_where_it_is_kept(encoder, tmp_path):
    assert encoder_of_space(encoder.space_id, encoders_dir=tmp_path) is None
    remember_encoder(encoder, encoders_dir=tmp_path)
    found = encoder_of_space(encoder.space_id, encoders_dir=tmp_path)
    assert found is not None
    assert found.space_id == encoder.space_id


def test_damage_is_noticed(encoder, tmp_path):
    folder = tmp_path / "encoder"
    encoder.save(folder)
    state = folder / lsa.STATE_FILE
    content = bytearray(state.read_bytes())
    content[-1] ^= 1
    state.write_bytes(content)
    with pytest.raises(LvmError, match="changed after"):
        load_lsa(folder)
    state.write_bytes(b"short")
    with pytest.raises(LvmError, match="damaged"):
        load_lsa(folder)
    (folder / lsa.DESCRIPTION_FILE).write_text(json.dumps([]))
    with pytest.raises(LvmError, match="damaged"):
        load_lsa(folder)
    with pytest.raises(LvmError, match="no fitted encoder"):
        load_lsa(tmp_path / "elsewhere")


def test_fitting_texts_without_words_is_an_error():
    with pytest.raises(LvmError, match="no words"):
        fit_lsa(["!", "?"])
    with pytest.raises(LvmError, match="no words that two texts share in the 1000 train texts"):
        fit_lsa([f"word{number}" for number in range(1000)])


def test_the_name_alone_is_no_encoder(tmp_path):
    with pytest.raises(LvmError, match="fitted"):
        encoder_named("lsa-768", encoders_dir=tmp_path)


@pytest.mark.parametrize("space_id", ["../../etc/passwd", "a/b@c", "", "." * 300, "x" * 300])
def test_the_folder_of_a_space_stays_inside(space_id, tmp_path):
    folder = encoder_folder(tmp_path, space_id)
    assert folder.resolve().parent == tmp_path.resolve()
    assert len(folder.name) < 200
