"""Every invariant is declared once; Dagster's checks, all findings and `docs/checks.md` come from the declarations."""

import ast
import importlib
from pathlib import Path

import pytest

from lvm_pipeline import lineage
from lvm_pipeline.definitions import defs
from lvm_pipeline.findings import Invariant, Severity
from lvm_pipeline.lineage.invariants import as_markdown

ROOT = Path(__file__).parent.parent
DECLARED = {(asset, each.name): each for asset, found in lineage.INVARIANTS.items() for each in found}
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text(encoding="utf-8")
    for path in (ROOT / "lvm_pipeline").rglob("*.py")
}


@pytest.mark.parametrize("invariant", dict.fromkeys(DECLARED.values()), ids=lambda invariant: invariant.name)
def test_every_invariant_has_a_meaning_and_a_remedy_in_whole_sentences(invariant):
    assert isinstance(invariant.severity, Severity)
    for words in (invariant.meaning, invariant.remedy):
        assert words[0].isupper() or words[0].isdigit(), words
        assert words.endswith("."), words
        assert not any(part in words for part in ("  ", "Args:", "Returns:"))


def test_no_name_is_declared_twice():
    by_name = {}
    for invariant in DECLARED.values():
        assert by_name.setdefault(invariant.name, invariant) is invariant


def test_dagster_has_a_check_for_every_invariant_and_no_other():
    graph = defs().resolve_asset_graph()
    specs = {(key.asset_key.to_user_string(), key.name): graph.get_check_spec(key) for key in graph.asset_check_keys}

    of_ensemble = {("ensemble", name) for asset, name in DECLARED if asset in ("trained_model", "evaluation_report")}
    assert specs.keys() == of_ensemble | {("concepts" if asset == "drift" else asset, name) for asset, name in DECLARED}
    for (asset, name), invariant in DECLARED.items():
        spec = specs["concepts" if asset == "drift" else asset, name]
        assert spec.description == f"{invariant.meaning} If it fails: {invariant.remedy}"
        assert spec.blocking is (invariant.severity is Severity.BLOCKING)


def test_findings_are_made_by_invariants_and_by_nothing_else():
    makers = {
        module
        for module, source in SOURCES.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "Finding"
    }

    assert makers == {"lvm_pipeline.findings.invariant"}


def test_every_declaration_belongs_to_an_asset():
    modules = [name for name, source in SOURCES.items() if "import" in source and "nvariant(" in source]
    found = [
        value
        for name in modules
        if not name.startswith("lvm_pipeline.findings")
        for value in vars(importlib.import_module(name)).values()
        if isinstance(value, Invariant)
    ]

    assert len(found) > 20
    assert {each.name for each in found} <= {name for _, name in DECLARED}


def test_the_page_of_checks_is_up_to_date():
    assert (ROOT / "docs" / "checks.md").read_text(encoding="utf-8") == as_markdown(), "run `make docs`"
