"""The encoder of a space whose id does not say where it is: found by a setting or a folder's name, and compared."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

from lvm_pipeline.errors import LvmError
from lvm_pipeline.lineage.space_encoder import space_encoder
from lvm_pipeline.settings import Settings
from lvm_pipeline.source.encoders.registry import encoder_of_space
from lvm_pipeline.source.encoders.sentence_transformer import load_sentence_transformer
from lvm_pipeline_tests.source.test_sentence_transformer import write_tiny_gtr
from lvm_pipeline_tests.synthetic import synthetic_table, write_table

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Importing from .sentence_transformers:DeprecationWarning"),
]
SPACE = "tiny-768"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("sentence_transformers")
    return write_tiny_gtr(tmp_path_factory.mktemp("models") / "some-model")


@pytest.fixture
def settings(folder, tmp_path):
    """A home whose concepts have the vectors of that model, under a bare id."""
    found = Settings(home=tmp_path / "home", device="cpu", num_threads=1)
    texts = [" ".join(np.random.default_rng(i).choice(["one", "two", "three"], 30)) for i in range(192)]
    vectors = load_sentence_transformer(str(folder), encoders_dir=tmp_path).encode(texts)
    table = synthetic_table([8] * 24, vector_dim=768)
    for name, values in {"concept_text": texts, "vector": vectors.tolist()}.items():
        index = table.schema.get_field_index(name)
        field = table.schema.field(index)
        table = table.set_column(index, field, pa.array(values, field.type))
    write_table(table, found.concepts_path, space_id=SPACE)
    return found


def test_it_is_found_by_the_setting_and_from_then_on_without_it(settings, folder):
    assert space_encoder(settings, SPACE) is None

    encoder = space_encoder(settings.model_copy(update={"encoder": str(folder)}), SPACE)

    assert encoder is not None
    assert encoder.space_id == SPACE
    recorded = encoder_of_space(SPACE, encoders_dir=settings.encoders_dir)
    assert recorded is not None
    np.testing.assert_allclose(recorded.encode(["one two"]), encoder.encode(["one two"]))
    assert space_encoder(settings, SPACE) is not None


def test_a_folder_of_the_spaces_name_is_taken(settings, folder):
    settings.encoders_dir.mkdir(parents=True)
    (settings.encoders_dir / SPACE).symlink_to(folder, target_is_directory=True)

    encoder = space_encoder(settings, SPACE)

    assert encoder is not None
    assert encoder.space_id == SPACE


def test_an_encoder_that_makes_other_vectors_is_refused(settings, tmp_path):
    torch.manual_seed(99)
    other = write_tiny_gtr(tmp_path / "other-model")
    weights = next(other.rglob("2_Dense/*.safetensors"))
    save_file({name: torch.randn_like(each) for name, each in load_file(weights).items()}, weights)
    with pytest.raises(LvmError, match="makes other vectors than the concepts have"):
        space_encoder(settings.model_copy(update={"encoder": str(other)}), SPACE)
    assert encoder_of_space(SPACE, encoders_dir=settings.encoders_dir) is None
