"""Promises of the import contract that this project brings itself."""

from types import SimpleNamespace

import grimp
import pytest

from lvm_pipeline_tests.import_contracts import MachineryOnlyContract


def check(*imports):
    graph = grimp.ImportGraph()
    graph.add_module("house")
    for importer, imported in imports:
        for name in (importer, imported):
            graph.add_module(name)
        graph.add_import(importer=importer, imported=imported)
    contract = MachineryOnlyContract(name="", session_options={}, contract_options={"package": "house"})
    return contract.check(graph, verbose=False)


def test_modules_may_share_machinery():
    result = check(("house.lstm", "house._backbone"), ("house._backbone", "house._norms"), ("cellar", "house.lstm"))

    assert result.kept


@pytest.mark.parametrize("importer", ["house.gru", "house._backbone", "house"])
def test_none_in_the_package_imports_a_plain_module(importer, capsys):
    result = check((importer, "house.lstm"))

    assert not result.kept
    MachineryOnlyContract.render_broken_contract(SimpleNamespace(), result)
    assert f"{importer} imports house.lstm" in capsys.readouterr().out
