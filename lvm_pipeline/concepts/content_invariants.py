"""Whether texts and codes are there, and no concept twice.

Shapes: N = concepts in the table.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.concepts.facts import NO_CODE, ConceptFacts
from lvm_pipeline.concepts.source_findings import finding_of, listed
from lvm_pipeline.findings import MAX_LISTED, Finding, Severity

LARGEST_CODES = np.array([15, 31, 63])


def no_duplicate_concepts(facts: ConceptFacts) -> Finding:
    """No concept repeats the text or the vector of an earlier one."""
    of_text = _earlier_rows(facts.text_hashes, ~facts.is_text_empty)
    of_vector = _earlier_rows(facts.vector_hashes, facts.widths >= 0)
    repeats = np.flatnonzero((of_text >= 0) | (of_vector >= 0))
    offenders = []
    for row in repeats[:MAX_LISTED].tolist():
        reason, earlier = ("text", of_text[row]) if of_text[row] >= 0 else ("vector", of_vector[row])
        found = {"row": row, "earlier_row": int(earlier), "cpe_id": str(facts.cpe_ids[row])}
        offenders.append({**found, "earlier_cpe_id": str(facts.cpe_ids[int(earlier)]), "same": reason})
    names = [
        f"row {found['row']} ({found['cpe_id']}) has the {found['same']} of "
        f"row {found['earlier_row']} ({found['earlier_cpe_id']})"
        for found in offenders
    ]
    problem = (
        f"{len(repeats)} concepts repeat an earlier one: {listed(names, len(repeats))}; "
        "delete them, or drop them while extracting (LVM_DUPLICATES=drop)"
    )
    return finding_of(
        "no_duplicate_concepts",
        [problem] if len(repeats) else [],
        good="no concept repeats the text or the vector of another",
        observed=len(repeats),
        details={
            "num_same_text": int((of_text >= 0).sum()),
            "num_same_vector": int((of_vector >= 0).sum()),
            "concepts": offenders,
        },
    )


def _earlier_rows(hashes: NDArray[np.int64], is_there: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Find the first row with the same hash, -1 for the first itself, shape (N,)."""
    earlier = np.full(len(hashes), -1, np.int64)
    rows = np.flatnonzero(is_there)
    _, firsts, groups = np.unique(hashes[rows], return_index=True, return_inverse=True)
    first_rows = rows[firsts][groups] if len(rows) else rows
    earlier[rows] = np.where(first_rows < rows, first_rows, -1)
    return earlier


def texts_are_not_empty(facts: ConceptFacts) -> Finding:
    """Every concept has a text that is more than white space."""
    empty = np.flatnonzero(facts.is_text_empty)
    names = listed(facts.named(empty[:MAX_LISTED]), len(empty))
    return finding_of(
        "texts_are_not_empty",
        [f"{len(empty)} concepts have no text: {names}; delete them or give them one"] if len(empty) else [],
        good="every concept has a text",
        observed=len(empty),
        details={
            "rows": empty[:MAX_LISTED].tolist(),
            "cpe_ids": [str(facts.cpe_ids[row]) for row in empty[:MAX_LISTED].tolist()],
        },
    )


def tmd_codes_are_assigned(facts: ConceptFacts) -> Finding:
    """Every concept has TMD codes, and not (0, 0, 0), which says that assigning them failed."""
    is_missing = (facts.codes == NO_CODE).any(axis=1)
    is_failed = (facts.codes == 0).all(axis=1)
    num_without = int((is_missing | is_failed).sum())
    fraction = num_without / facts.num_concepts if facts.num_concepts else 0.0
    problem = f"{num_without} of {facts.num_concepts} concepts have no TMD codes ({is_failed.sum()} of them 0, 0, 0)"
    return finding_of(
        "tmd_codes_are_assigned",
        [problem] if num_without else [],
        severity=Severity.WARNING,
        good="every concept has TMD codes",
        observed=fraction,
        details={
            "num_missing": int(is_missing.sum()),
            "num_failed": int(is_failed.sum()),
            "rows": np.flatnonzero(is_missing | is_failed)[:MAX_LISTED].tolist(),
        },
    )


def tmd_packing_is_known(facts: ConceptFacts) -> Finding:
    """TMD codes are in the ranges of their packing; packed codes of the source agree where there are any."""
    name = "tmd_packing_is_known"
    outside = np.flatnonzero((facts.codes > LARGEST_CODES).any(axis=1) | (facts.codes < NO_CODE).any(axis=1))
    if len(outside):
        names = [
            f"{text} has {tuple(facts.codes[row].tolist())}"
            for text, row in zip(facts.named(outside[:20]), outside, strict=False)
        ]
        problem = f"{len(outside)} concepts have TMD codes beyond 15, 31, 63: {listed(names, len(outside))}"
        details = {"rows": outside[:MAX_LISTED].tolist()}
        return finding_of(name, [problem], severity=Severity.WARNING, good="", observed=len(outside), details=details)
    known = next((finding for finding in facts.source_findings if finding.name == name), None)
    if known is not None and known.was_checked:
        return known
    has_codes = bool((facts.codes != NO_CODE).any())
    good = "all TMD codes are in range" if has_codes else "there are no TMD codes to look at"
    finding = finding_of(name, [], severity=Severity.WARNING, good=good, observed=0)
    return replace(finding, was_checked=has_codes)
