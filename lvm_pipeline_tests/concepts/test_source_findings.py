"""The space of a table's vectors is the one that the table declares, or else that of the setting."""

import pytest

from lvm_pipeline.concepts.source_findings import choose_space


@pytest.mark.parametrize("undeclared", [None, "undeclared-768"])
def test_the_setting_names_the_space_of_vectors_that_declare_none(undeclared):
    assert choose_space({undeclared: 9}, wanted="gtr-t5-base") == ("gtr-t5-base", None)
    assert choose_space({undeclared: 9}, wanted=None) == (None, None)
    assert choose_space({undeclared: 9, "gtr-t5-base": 2}, wanted="gtr-t5-base") == ("gtr-t5-base", None)
    _, finding = choose_space({undeclared: 9, "gtr-t5-base": 2}, wanted=None)
    assert finding is not None
    assert "9 vectors declare no space, 2 are in gtr-t5-base; set LVM_SPACE_ID=gtr-t5-base" in finding.message


def test_a_space_of_the_table_is_not_overruled_by_the_setting():
    _, finding = choose_space({"other": 9}, wanted="gtr-t5-base")
    assert finding is not None
    assert not finding.passed
