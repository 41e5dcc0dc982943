import subprocess
import sys

import numpy as np
import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline.inference.nearest import open_index
from lvm_pipeline_tests.synthetic import synthetic_table, write_table


@pytest.fixture
def table():
    return synthetic_table([6, 5, 7])


def test_the_nearest_are_those_of_the_highest_cosine(table, tmp_path):
    index = open_index(write_table(table, tmp_path / "c.parquet"), tmp_path / "vectors", space_id="synthetic")
    vectors = np.stack(table["vector"].to_numpy())
    asked = np.random.default_rng(0).standard_normal(32).astype(np.float32)
    cosines = vectors @ asked / np.linalg.norm(vectors, axis=1) / np.linalg.norm(asked)
    order = np.argsort(-cosines)

    found = index.nearest(asked, 4)

    assert [concept["concept_text"] for concept in found] == [
        table["concept_text"][int(row)].as_py() for row in order[:4]
    ]
    assert [concept["cosine"] for concept in found] == pytest.approx(cosines[order[:4]].tolist(), abs=2e-6)
    assert found[0]["cpe_id"] == table["cpe_id"][int(order[0])].as_py()
    assert len(index.nearest(asked, 100)) == 18
    without = index.nearest(asked, 4, exclude={int(order[0]), int(order[2])})
    assert [concept["concept_text"] for concept in without[:2]] == [
        table["concept_text"][int(row)].as_py() for row in order[[1, 3]]
    ]
    assert index.nearest(vectors[11], 1)[0]["concept_text"] == table["concept_text"][11].as_py()


def test_a_table_of_another_space_is_refused(table, tmp_path):
    path = write_table(table, tmp_path / "c.parquet", space_id="there")

    with pytest.raises(LvmError, match="are of space there and the vectors are of here"):
        open_index(path, tmp_path / "vectors", space_id="here")


LOOK_UP = """
import sys
from pathlib import Path
import numpy as np
from lvm_pipeline.inference.nearest import open_index
folder = Path(sys.argv[1])
index = open_index(folder / "c.parquet", folder / "vectors", space_id="synthetic")
assert len(index.nearest(np.ones(32, np.float32), 3)) == 3
print("pandas" in sys.modules)
"""


def test_a_look_up_does_not_import_pandas(table, tmp_path):
    """Else the first answer of `lvm predict` waits for it."""
    path = write_table(table, tmp_path / "c.parquet")
    open_index(path, tmp_path / "vectors", space_id="synthetic")  # memory-maps the vectors, as `lvm run` does

    run = subprocess.run([sys.executable, "-c", LOOK_UP, str(tmp_path)], capture_output=True, text=True, check=True)

    assert run.stdout == "False\n"
