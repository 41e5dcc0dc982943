"""A damaged file of a home is named, with what to do."""

import pytest

from lvm_pipeline import lineage
from lvm_pipeline.errors import LvmError
from lvm_pipeline.lineage.data import reported_findings
from lvm_pipeline.lineage.week_five import read_week_5
from lvm_pipeline.settings import Settings
from lvm_pipeline.training.invariants import read_findings

READERS = {
    "reports/verification.json": reported_findings,
    "plan/week_5.json": lambda settings: read_week_5(settings, {}),
    "tracking.json": lambda settings: lineage.read_tracking(settings.home),
    "findings.json": lambda settings: read_findings(settings.home),
}


@pytest.mark.parametrize("content", ['{"cut', "3", b"\xff"])
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_named(tmp_path, name, content):
    settings = Settings(home=tmp_path)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(LvmError, match=r"cannot be read \(.*; delete it") as error:
        READERS[name](settings)
    assert str(path) in str(error.value)
