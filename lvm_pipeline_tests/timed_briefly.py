"""A prediction is timed a few times only, since 200 of them take as long as everything else about so small a model."""

import pytest


@pytest.fixture(scope="package", autouse=True)
def timed_briefly():
    from lvm_pipeline.evaluation import latency

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "NUM_TIMED", 20)
        yield
