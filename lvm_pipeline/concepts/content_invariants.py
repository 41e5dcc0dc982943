"""Invariants of texts, duplicates and TMD codes.

Shapes: N = concepts in the table.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.concepts.facts import NO_CODE, ConceptFacts, lacks_codes
from lvm_pipeline.findings import MAX_LISTED, Finding, Severity, invariant, listed
from lvm_pipeline.words import counted

LARGEST_CODES = np.array([15, 31, 63])


@invariant(remedy="Delete the copies, or let the extraction drop them: LVM_DUPLICATES=drop.")
def no_duplicate_concepts(facts: ConceptFacts) -> Finding:
    """No concept has the same text or the same vector as another.

    A copy in another split would be a test item that the model has seen in training.
    """
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
    finding = no_duplicate_concepts.from_count(
        len(repeats),
        f"{counted(len(repeats), 'concept repeats', 'concepts repeat')} an earlier one: {listed(names, len(repeats))}",
        otherwise="no two concepts have the same text or the same vector",
        details={
            "num_same_text": int((of_text >= 0).sum()),
            "num_same_vector": int((of_vector >= 0).sum()),
            "concepts": offenders,
        },
    )
    return _expected_of_sequences(finding, facts, "pieces that could not be joined repeat concepts")


@invariant(
    severity=Severity.WARNING,
    remedy="Read the texts of the listed concepts. If they begin alike, the encoder cut them: load shorter concepts. "
    "Otherwise their vectors are wrong: encode them again.",
)
def equal_vectors_have_equal_texts(facts: ConceptFacts) -> Finding:
    """No two concepts have the same vector but different texts, in the table or among the duplicates that were dropped.

    An encoder gives the same vector to texts that begin alike if it reads only their beginning.
    """
    of_vector = _earlier_rows(facts.vector_hashes, facts.widths >= 0)
    rows = np.flatnonzero(of_vector >= 0)
    rows = rows[facts.text_hashes[rows] != facts.text_hashes[of_vector[rows]]]
    dropped = [each for each in facts.metadata.dropped if each["reason"] == "same vector"]
    names = [f"{facts.cpe_ids[row]} and {facts.cpe_ids[int(of_vector[row])]}" for row in rows[:MAX_LISTED].tolist()]
    names += [f"{each['cpe_id']} (dropped) and {each['kept_cpe_id']}" for each in dropped[:MAX_LISTED]]
    num = len(rows) + len(dropped)
    return equal_vectors_have_equal_texts.from_count(
        num,
        f"{counted(num, 'concept has', 'concepts have')} "
        f"the vector of another concept and another text: {listed(names, num)}",
        otherwise="no two concepts with different texts have the same vector",
        details={"num_in_table": len(rows), "num_dropped": len(dropped), "pairs": names[:MAX_LISTED]},
    )


def _earlier_rows(hashes: NDArray[np.int64], is_there: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Find the first row with the same hash, -1 for the first itself, shape (N,)."""
    earlier = np.full(len(hashes), -1, np.int64)
    rows = np.flatnonzero(is_there)
    _, firsts, groups = np.unique(hashes[rows], return_index=True, return_inverse=True)
    first_rows = rows[firsts][groups] if len(rows) else rows
    earlier[rows] = np.where(first_rows < rows, first_rows, -1)
    return earlier


@invariant(remedy="Add a text to the listed rows, or delete them.")
def texts_are_not_empty(facts: ConceptFacts) -> Finding:
    """Every concept has a text that is not only white space."""
    empty = np.flatnonzero(facts.is_text_empty)
    finding = texts_are_not_empty.from_count(
        len(empty),
        f"{counted(len(empty), 'concept has', 'concepts have')} no text: {facts.listed(empty)}",
        otherwise="every concept has a text",
        details=facts.some(empty),
    )
    return _expected_of_sequences(finding, facts, "such a file has the texts of the targets only")


def _expected_of_sequences(finding: Finding, facts: ConceptFacts, reason: str) -> Finding:
    """Turn a failure into a warning where the table was restored from a file of sequences."""
    if finding.passed or not facts.metadata.is_from_sequences:
        return finding
    message = f"{finding.message} (the table was restored from a file of sequences: {reason})"
    return replace(finding, severity=Severity.WARNING, message=message)


@invariant(
    severity=Severity.WARNING,
    remedy="Assign TMD codes, as `lvm tmd assign` does. If you do not use TMD codes, ignore this warning.",
)
def tmd_codes_are_assigned(facts: ConceptFacts) -> Finding:
    """Every concept has domain, task and modifier codes other than 0, 0, 0, which marks a failed assignment.

    Training works without them; the drift check of the TMD mix does not.
    """
    is_failed = (facts.codes == 0).all(axis=1)
    is_without = lacks_codes(facts.codes)
    num_without, num_failed = int(is_without.sum()), int(is_failed.sum())
    failed = f"; {num_failed:,} of them have the codes 0, 0, 0" if num_failed else ""
    return tmd_codes_are_assigned.from_count(
        num_without,
        f"{num_without:,} of {facts.num_concepts:,} concepts have no TMD codes{failed}",
        otherwise="every concept has TMD codes",
        observed=num_without / max(1, facts.num_concepts),
        details={
            "num_missing": num_without - num_failed,
            "num_failed": num_failed,
            "rows": np.flatnonzero(is_without)[:MAX_LISTED].tolist(),
        },
    )


@invariant(
    severity=Severity.WARNING,
    remedy="The packed codes do not follow domain<<11 | task<<6 | modifier: unpack them by the rule that packed them, "
    "or drop the packed column.",
)
def tmd_packing_is_known(facts: ConceptFacts) -> Finding:
    """TMD codes are within range (at most 15, 31, 63), and packed codes agree with the three columns."""
    outside = np.flatnonzero((facts.codes > LARGEST_CODES).any(axis=1) | (facts.codes < NO_CODE).any(axis=1))
    if not len(outside):
        of_source = next((each for each in facts.source_findings if each.name == tmd_packing_is_known.name), None)
        if of_source is not None and of_source.was_checked:
            return of_source
        if not (facts.codes != NO_CODE).any():
            return tmd_packing_is_known.not_checked("there are no TMD codes")
    listed_codes = facts.listed(outside, lambda row: f"has {tuple(facts.codes[row].tolist())}")
    return tmd_packing_is_known.from_count(
        len(outside),
        f"{counted(len(outside), 'concept has', 'concepts have')} TMD codes outside 0 to 15, 31, 63: {listed_codes}",
        otherwise="all TMD codes are in range",
        details={"rows": outside[:MAX_LISTED].tolist()},
    )
