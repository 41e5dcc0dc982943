"""Run all invariants of a concept table."""

from pathlib import Path
from typing import Any

from lvm_pipeline.concepts import content_invariants, neighbours, order_invariants, text_invariants, vector_invariants
from lvm_pipeline.concepts.facts import read_facts
from lvm_pipeline.concepts.vector_invariants import CanaryEncoder
from lvm_pipeline.findings import Finding, InvariantCheck, declared_in
from lvm_pipeline.source.space_fingerprint import SpaceFingerprint


def invariants() -> tuple[InvariantCheck[...], ...]:
    """Return the invariants of a concept table, in the order in which they are checked and reported."""
    return declared_in(
        *map(vars, (order_invariants, neighbours, vector_invariants, text_invariants, content_invariants))
    )


def check_concepts(
    path: Path,
    *,
    encoder: CanaryEncoder | None = None,
    fingerprint: SpaceFingerprint | None = None,
    context_length: int = 5,
) -> list[Finding]:
    """Check every invariant of a concept table; findings that only the source could show are read from the file.

    The encoder of the vectors' space encodes some texts again, and `fingerprint` holds the statistics of that space
    (None: not checked); `context_length` decides whether an article is long enough for a sequence.

    Raises:
        LvmError: If the file cannot be read.
    """
    facts = read_facts(path)
    options: dict[str, dict[str, Any]] = {
        "vectors_match_their_space": {"encoder": encoder, "fingerprint": fingerprint},
        "articles_are_long_enough": {"context_length": context_length},
    }
    from_source = {finding.name: finding for finding in facts.source_findings}
    return [
        _more_informative(check(facts, **options.get(check.name, {})), from_source.get(check.name))
        for check in invariants()
    ]


def _more_informative(of_file: Finding, of_source: Finding | None) -> Finding:
    """Return the finding of the extraction if it failed, or if both passed and only it was checked; else the file's."""
    if of_source is None or (of_source.passed and not of_file.passed):
        return of_file
    return of_source if not of_source.passed or (of_source.was_checked and not of_file.was_checked) else of_file
