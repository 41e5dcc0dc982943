"""Invariants of the vectors: each concept has one, all are usable, and they belong to the declared space.

Shapes: n = texts, D = vector width.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.concepts.facts import ConceptFacts
from lvm_pipeline.concepts.spaces import fit_of_table
from lvm_pipeline.findings import MAX_LISTED, Finding, Severity, invariant, listed
from lvm_pipeline.source.space_fingerprint import SpaceFingerprint
from lvm_pipeline.source.space_ids import is_declared
from lvm_pipeline.words import counted

CANARY_COSINE = 0.99
NORM_TOLERANCE = 0.01


class CanaryEncoder(Protocol):
    """What the invariants need of an encoder."""

    @property
    def space_id(self) -> str: ...

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts to vectors (n, D)."""
        ...


@invariant(remedy="Encode the listed concepts, or delete their articles.")
def every_concept_has_a_vector(facts: ConceptFacts) -> Finding:
    """Every concept has a vector."""
    missing = np.flatnonzero(facts.widths < 0)
    ids = [str(facts.cpe_ids[row]) for row in missing[:MAX_LISTED].tolist()]
    return coverage_finding(facts.num_concepts, len(missing), ids)


def coverage_finding(num_concepts: int, num_missing: int, missing_ids: Sequence[str]) -> Finding:
    """Return the finding of `every_concept_has_a_vector` from counts and some ids of concepts without a vector."""
    return every_concept_has_a_vector.from_count(
        num_missing,
        f"{num_missing:,} of {num_concepts:,} concepts have no vector: {listed(missing_ids, num_missing)}",
        otherwise=f"all {num_concepts:,} concepts have a vector",
        observed=1 - num_missing / num_concepts if num_concepts else 0,
        allowed=1,
        details={"num_missing": num_missing, "cpe_ids": list(missing_ids[:MAX_LISTED])},
    )


@invariant(remedy="Encode the listed concepts again, with the encoder of the other vectors.")
def vectors_are_finite_and_of_one_width(facts: ConceptFacts) -> Finding:
    """All vectors have the same width and contain no NaN or infinity."""
    allowed = facts.metadata.vector_dim
    other = np.flatnonzero((facts.widths >= 0) & (facts.widths != allowed))
    broken = np.flatnonzero(~facts.is_finite)
    problems = []
    if len(other):
        names = facts.listed(other, lambda row: f"is {facts.widths[row]} wide")
        problems.append(f"{counted(len(other), 'vector is', 'vectors are')} not {allowed} wide: {names}")
    if len(broken):
        problems.append(
            f"{counted(len(broken), 'vector holds', 'vectors hold')} NaN or infinity: {facts.listed(broken)}"
        )
    return vectors_are_finite_and_of_one_width.from_problems(
        problems,
        otherwise=f"all vectors are finite and {allowed} wide",
        observed=len(other) + len(broken),
        details={
            "num_of_other_width": len(other),
            "num_not_finite": len(broken),
            **facts.some(np.concatenate([other, broken])),
        },
    )


@invariant(
    remedy="Find out which encoder made the vectors. Encode all concepts with one encoder, or declare the right one "
    "with LVM_SPACE_ID or `lvm ingest --space`."
)
def vectors_match_their_space(
    facts: ConceptFacts, *, encoder: CanaryEncoder | None = None, fingerprint: SpaceFingerprint | None = None
) -> Finding:
    """The vectors come from the declared encoder: a few texts encoded again give the same vectors.

    Their lengths fit, and their leading directions are those of earlier vectors of the space. Vectors of different
    encoders cannot be mixed or compared.
    """
    # A vector of length 0 fits no space. With an encoder, or if most vectors have length 1, all must have it.
    space_id = facts.metadata.space_id
    problems, details = _norm_problems(facts, is_unit=encoder is not None)
    details["space_id"] = space_id
    cosines: dict[int, float] = {}
    if encoder is not None and encoder.space_id != space_id:
        problems.append(f"the encoder makes vectors of {encoder.space_id}, the table says {space_id}")
    elif encoder is not None:
        cosines = _canary_cosines(facts, encoder)
        wrong = np.array([row for row, cosine in cosines.items() if cosine < CANARY_COSINE], np.int64)
        details["cosines"] = {str(row): cosine for row, cosine in cosines.items()}
        if len(wrong):
            problems.append(
                f"{len(wrong):,} of {len(cosines):,} texts encoded again by {space_id} give other vectors "
                f"(lowest cosine {min(cosines.values()):.3f}, allowed {CANARY_COSINE}): {facts.listed(wrong)}"
            )
    problem, by_fingerprint = _space_problems(facts, fingerprint)
    problems += problem
    details |= by_fingerprint
    if not problems and is_declared(space_id) and not cosines:
        reason = "its encoder is not available to encode some texts again"
        if encoder is not None:
            reason = f"none of {len(facts.canary_rows):,} concepts has both a text and a vector that can be compared"
        if by_fingerprint:
            return vectors_match_their_space.finding(
                passed=True,
                message=f"the vectors fit the statistics of {space_id} ({reason})",
                observed=by_fingerprint["fit_of_numbers"],
                allowed=by_fingerprint["lowest_fit_of_numbers"],
                details=details,
            )
        return vectors_match_their_space.not_checked(
            f"vector lengths fit the space {space_id}, but {reason}", details=details
        )
    severity = None
    if not problems and not is_declared(space_id):
        problems, severity = [f"the vectors' encoder is not declared ({space_id}); set LVM_SPACE_ID"], Severity.WARNING
    return vectors_match_their_space.from_problems(
        problems,
        otherwise=f"all vectors fit the space {space_id}",
        severity=severity,
        observed=min(cosines.values(), default=None),
        allowed=CANARY_COSINE,
        details=details,
    )


def _space_problems(facts: ConceptFacts, fingerprint: SpaceFingerprint | None) -> tuple[list[str], dict[str, Any]]:
    """Return how the vectors differ from the fingerprint, and the details; empty if they cannot be judged."""
    found = None if fingerprint is None else fit_of_table(facts.path, fingerprint)
    if fingerprint is None or found is None:
        return [], {}
    details = {"fit_of_numbers": found.fit, "lowest_fit_of_numbers": fingerprint.limit}
    if not found.articles and found.fit >= fingerprint.limit:
        return [], details
    named = (
        f" in {len(found.articles):,} of {found.num_judged:,} articles: {listed(found.articles)}"
        if found.articles
        else ""
    )
    why = (
        f"the vectors do not match earlier ones of {fingerprint.space_id}: they fit no better than random directions"
        f"{named} (mean fit of all {found.fit:.2f}, expected 1)"
    )
    return [why], {**details, "article_ids": found.articles[:MAX_LISTED]}


def _norm_problems(facts: ConceptFacts, *, is_unit: bool) -> tuple[list[str], dict[str, Any]]:
    known = np.isfinite(facts.norms)
    is_one = np.abs(facts.norms - 1) <= NORM_TOLERANCE
    is_unit = is_unit or is_one.sum() * 2 > known.sum()
    zero = np.flatnonzero(facts.norms == 0)
    wrong = np.flatnonzero(known & ~is_one & (facts.norms > 0)) if is_unit else np.empty(0, np.int64)
    problems = []
    if len(zero):
        problems.append(f"{counted(len(zero), 'vector has', 'vectors have')} length 0: {facts.listed(zero)}")
    if len(wrong):
        names = facts.listed(wrong, lambda row: f"has {facts.norms[row]:.3f}")
        problems.append(
            f"{counted(len(wrong), 'vector')} of a space of unit vectors {'has' if len(wrong) == 1 else 'have'} "
            f"another length: {names}"
        )
    norms = facts.norms[known]
    details: dict[str, Any] = {
        "is_unit": bool(is_unit),
        "num_of_other_length": len(wrong) + len(zero),
        "rows": np.concatenate([zero, wrong])[:MAX_LISTED].tolist(),
        "norm_min": float(norms.min()) if norms.size else None,
        "norm_max": float(norms.max()) if norms.size else None,
    }
    return problems, details


def _canary_cosines(facts: ConceptFacts, encoder: CanaryEncoder) -> dict[int, float]:
    """Return the cosine of each canary with its text encoded again, by row; 0 if the encoder has another width.

    Canaries without a text, without a vector or with one of length 0 are left out: other invariants report them.
    """
    usable = [
        (row, text, vector)
        for row, text, vector in zip(facts.canary_rows.tolist(), facts.canary_texts, facts.canary_vectors, strict=True)
        if text.strip() and vector is not None and np.isfinite(facts.norms[row]) and facts.norms[row] > 0
    ]
    if not usable:
        return {}
    again = np.asarray(encoder.encode([text for _, text, _ in usable]), np.float32)
    cosines = {}
    for (row, _, vector), encoded in zip(usable, again, strict=True):
        is_comparable = vector.shape == encoded.shape and encoded.any()
        given, found = vector.astype(np.float64), encoded.astype(np.float64)
        cosines[row] = float(given @ found / np.sqrt(given @ given * (found @ found))) if is_comparable else 0.0
    return cosines
