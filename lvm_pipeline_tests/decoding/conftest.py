"""What the tests of decoders share."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _all_on_one_thread(one_thread):
    """Every module of this folder."""
